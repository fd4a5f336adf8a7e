"""Trained models on disk and what they answer."""
