"""Tables and figures of finished runs; reads records only."""
