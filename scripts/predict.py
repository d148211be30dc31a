"""`python scripts/predict.py RUN_DIR --split test`: see heterolora/cli/predict.py."""

from heterolora.cli.predict import run

if __name__ == "__main__":
    run()
