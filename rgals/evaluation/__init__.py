"""Evaluation: full-ranking metrics, intervals, reports."""
