"""Everything around the library: configurations, data, runs, their records, and reports."""
