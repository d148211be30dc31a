"""`python scripts/study.py ...` is `heterolora study ...`, by its name."""

import sys

from heterolora.harness.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
