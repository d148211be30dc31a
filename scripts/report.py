"""`python scripts/report.py outputs --table 4`: see heterolora/cli/report.py."""

from heterolora.cli.report import run

if __name__ == "__main__":
    run()
