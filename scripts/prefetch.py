"""`python scripts/prefetch.py task=mrpc`: see heterolora/cli/prefetch.py."""

from heterolora.cli.prefetch import run

if __name__ == "__main__":
    run()
