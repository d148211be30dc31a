"""`python scripts/study.py EXPERIMENT`: see heterolora/harness/cli/study.py."""

from heterolora.harness.cli.study import run

if __name__ == "__main__":
    run()
