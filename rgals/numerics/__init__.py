"""Arrays in, arrays out: objective, half-step, kernels, top-k, ranking measures."""
