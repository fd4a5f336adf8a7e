"""Training on a real cluster of several nodes, while things go wrong."""
