"""The command line: `python train.py proxy=gradnorm strategy=dynamic`, or a sweep with `-m`."""

import sys

from heterolora.cli.door import main

if __name__ == "__main__":
    sys.exit(main())
