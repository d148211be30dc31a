"""`python scripts/evaluate.py RUN_DIR --task mmlu`: see heterolora/harness/cli/commands."""

from heterolora.harness.cli.commands.evaluate import run

if __name__ == "__main__":
    run()
