"""`python scripts/export.py RUN_DIR --to peft OUT`: see heterolora/harness/cli/export.py."""

from heterolora.harness.cli.export import run

if __name__ == "__main__":
    run()
