"""Search over options: spaces, trials, studies kept on disk, and the loop that runs them."""
