"""Where a run is followed: the console, and what `tracking` chooses."""
