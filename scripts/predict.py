"""`python scripts/predict.py RUN_DIR --split test`: see heterolora/harness/cli/predict.py."""

from heterolora.harness.cli.predict import run

if __name__ == "__main__":
    run()
