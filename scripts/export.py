"""`python scripts/export.py RUN_DIR --to peft OUT`: see heterolora/cli/export.py."""

from heterolora.cli.export import run

if __name__ == "__main__":
    run()
