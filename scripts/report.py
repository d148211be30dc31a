"""`python scripts/report.py outputs --table 4`: see heterolora/harness/cli/commands."""

from heterolora.harness.cli.commands.report import run

if __name__ == "__main__":
    run()
