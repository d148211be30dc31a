"""The figures that are drawn of runs."""
