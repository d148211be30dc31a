"""`python scripts/export.py ...` is `heterolora export ...`, by its name."""

import sys

from heterolora.harness.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
