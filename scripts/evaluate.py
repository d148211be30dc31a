"""`python scripts/evaluate.py ...` is `heterolora evaluate ...`, by its name."""

import sys

from heterolora.harness.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
