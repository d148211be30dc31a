"""Tasks, where their examples come from, and batches of them."""
