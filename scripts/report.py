"""`python scripts/report.py outputs --table 4`: see heterolora/harness/cli/report.py."""

from heterolora.harness.cli.report import run

if __name__ == "__main__":
    run()
