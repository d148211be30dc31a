"""`python scripts/predict.py RUN_DIR --split test`: see heterolora/harness/cli/commands."""

from heterolora.harness.cli.commands.predict import run

if __name__ == "__main__":
    run()
