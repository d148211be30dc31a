"""The command line: `python train.py proxy=gradnorm strategy=dynamic`, or a sweep with `-m`."""

import signal
import sys

if __name__ == "__main__":
    # Ctrl-C ends the process without a traceback until the door listens, some milliseconds later.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from heterolora.harness.cli.main import main

    sys.exit(main())
