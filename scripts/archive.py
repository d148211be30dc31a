"""`python scripts/archive.py FOLDER FILE.jsonl.gz`: see heterolora/harness/cli/archive.py."""

from heterolora.harness.cli.archive import run

if __name__ == "__main__":
    run()
