"""`python -m heterolora ...` is the console command `heterolora ...`."""

import sys

from heterolora.harness.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
