"""Keep finished runs in one small file, without weights, or restore them from it.

python scripts/archive.py outputs/study docs/study/mrpc.jsonl.gz
python scripts/archive.py docs/study/mrpc.jsonl.gz outputs
python scripts/report.py docs/study --table study

A restored run counts as finished: its command does not run it again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from heterolora.errors import RecordError
from heterolora.harness.cli.commands.arguments import Parser
from heterolora.harness.records.archive import restore, write_archive
from heterolora.harness.records.load import load
from heterolora.harness.records.read import read_archive
from heterolora.harness.records.schema import ARCHIVE


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(__doc__)
    parser.add_argument("source", type=Path, help="a folder with runs, or an archive (.jsonl.gz)")
    parser.add_argument(
        "target", type=Path, help="an archive (.jsonl.gz), or a folder for the runs"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Write an archive, or restore the directories of its runs."""
    args = parse_args(arguments)
    kinds = [path.name.endswith(ARCHIVE) for path in (args.source, args.target)]
    if kinds == [False, True]:
        if not keep(args.source, args.target):
            raise RecordError(
                f"{args.source}: has no finished run; run an experiment first, or repair the "
                "records that are left out"
            )
    elif kinds == [True, False]:
        unpack(args.source, args.target)
    else:
        raise RecordError(
            f"{args.source} {args.target}: one must be an archive, which ends in {ARCHIVE}, and "
            "the other a folder; for example outputs/study docs/study/study.jsonl.gz"
        )


def keep(folder: Path, file: Path) -> int:
    """Add the finished runs of a folder to an archive; return how many the folder has."""
    runs, problems = load(folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    finished = [run for run in runs if run.finished]
    if finished:
        new = write_archive(file, finished)
        print(f"{file}: {new} runs added; {file.stat().st_size:,} bytes")
    return len(finished)


def unpack(file: Path, folder: Path) -> None:
    """Restore the runs of an archive that a folder does not have."""
    runs = read_archive(file)
    new = sum(restore(run, folder) for run in runs)
    print(f"{folder}: {new} of {len(runs)} runs restored")
