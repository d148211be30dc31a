"""`python scripts/prefetch.py task=mrpc`: see heterolora/harness/cli/prefetch.py."""

from heterolora.harness.cli.prefetch import run

if __name__ == "__main__":
    run()
