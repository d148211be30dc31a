"""`python scripts/archive.py FOLDER FILE.jsonl`: see heterolora/cli/archive.py."""

from heterolora.cli.archive import run

if __name__ == "__main__":
    run()
