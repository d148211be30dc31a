"""Loggers, which follow a run: the console, and the trackers that `tracking` chooses."""
