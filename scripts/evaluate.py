"""`python scripts/evaluate.py RUN_DIR --task mmlu`: see heterolora/harness/cli/evaluate.py."""

from heterolora.harness.cli.evaluate import run

if __name__ == "__main__":
    run()
