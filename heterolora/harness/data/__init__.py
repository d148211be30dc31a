"""Where the examples of tasks come from, and the formats in which answers are submitted."""
