"""`python scripts/study.py EXPERIMENT`: see heterolora/cli/study.py."""

from heterolora.cli.study import run

if __name__ == "__main__":
    run()
