"""`python scripts/export.py RUN_DIR --to peft OUT`: see heterolora/harness/cli/commands."""

from heterolora.harness.cli.commands.export import run

if __name__ == "__main__":
    run()
