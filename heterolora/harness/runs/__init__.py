"""The life of a run: prepared from its configuration, built, executed."""
