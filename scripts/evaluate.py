"""`python scripts/evaluate.py RUN_DIR --task mmlu`: see heterolora/cli/evaluate.py."""

from heterolora.cli.evaluate import run

if __name__ == "__main__":
    run()
