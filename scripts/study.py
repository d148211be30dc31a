"""`python scripts/study.py EXPERIMENT`: see heterolora/harness/cli/commands."""

from heterolora.harness.cli.commands.study import run

if __name__ == "__main__":
    run()
