"""Ingest, ids, splits, shards, datasets; the only code that reads or writes data files."""
