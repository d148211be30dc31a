"""Tables and figures of finished runs, made from their records alone."""
