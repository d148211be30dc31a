"""Where a run is followed: the console, Weights & Biases."""
