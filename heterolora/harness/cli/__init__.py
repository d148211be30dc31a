"""The commands: run, sweep, prefetch, report."""
