"""Training: sweeps, checkpoints, events."""
