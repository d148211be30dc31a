"""`python scripts/prefetch.py task=mrpc`: see heterolora/harness/cli/commands."""

from heterolora.harness.cli.commands.prefetch import run

if __name__ == "__main__":
    run()
