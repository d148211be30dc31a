"""`python scripts/archive.py FOLDER FILE.jsonl`: see heterolora/harness/cli/commands."""

from heterolora.harness.cli.commands.archive import run

if __name__ == "__main__":
    run()
