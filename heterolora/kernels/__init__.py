"""What makes steps fast on a CPU, and changes no number."""
