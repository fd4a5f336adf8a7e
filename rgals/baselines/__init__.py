"""Models that rgals is compared with."""
