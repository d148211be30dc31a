"""The record of a run: its files, their schema, and the lock on its directory."""
