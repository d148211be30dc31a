"""A table: its rows and comparisons, what they cannot show, and the formats that it takes."""
