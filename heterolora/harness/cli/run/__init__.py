"""One run: compose its configuration, check the command line, help, and train."""
