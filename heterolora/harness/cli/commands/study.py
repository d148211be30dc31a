"""Complete an experiment whose records are kept: run what is missing, keep it, and report.

python scripts/study.py study_r2
python scripts/study.py study_r2 model=minilm model.path=DIR task=sst2 hydra/launcher=joblib

If the experiment's table has tuning seeds, these run first, at every value; then the seeds that are
reported run, each arm at the value that was best for it.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra

from heterolora.errors import RecordError
from heterolora.harness.cli.commands import archive
from heterolora.harness.cli.commands.arguments import Parser
from heterolora.harness.cli.run.compose import composing
from heterolora.harness.cli.run.grids import combinations
from heterolora.harness.paths import CONF
from heterolora.harness.records.load import load
from heterolora.harness.records.read import Run
from heterolora.harness.records.schema import ARCHIVE
from heterolora.harness.reporting.layout import Table, experiments, read

EXPERIMENTS = CONF / "experiment"
ARCHIVES = Path("docs/study")

INTERRUPTED = 128
"""Exit codes above this one are those of commands that a signal ended."""

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(__doc__)
    known = experiments(EXPERIMENTS)
    parser.add_argument("experiment", choices=known, metavar="EXPERIMENT", help=", ".join(known))
    parser.add_argument(
        "--output", type=Path, default=Path("outputs"), help="folder of the runs (default: outputs)"
    )
    parser.add_argument(
        "--archives",
        type=Path,
        default=ARCHIVES,
        help="folder of the records that are kept (default: docs/study)",
    )
    parser.add_argument("overrides", nargs="*", help="settings of every run, as for train.py")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Restore, run, keep and report; return the exit code of the worst part."""
    args = parse_args(arguments)
    table = read(EXPERIMENTS / f"{args.experiment}.yaml")
    for file in kept(args.archives, table.name):
        archive.unpack(file, args.output)
    try:
        code = run_missing(table, args.output, args.overrides)
    finally:  # an interrupted sweep has finished runs too
        keep(args.output, args.archives, table.name)
    if code < INTERRUPTED and kept(args.archives, table.name):
        command("report", str(args.archives), "--table", table.name)
    return code


def run_missing(table: Table, output: Path, overrides: Sequence[str]) -> int:
    """Run what is not finished of an experiment; return the exit code."""
    common = [f"+experiment={table.name}", f"output={output}", *overrides]
    if not table.tuning_seeds:
        return command("run", "-m", *common)
    # A failed tuning run does not stop the study: its value is then not chosen.
    if (code := command("run", "-m", *common, _seeds(table.tuning_seeds))) > INTERRUPTED:
        return code
    grids = ",".join(_grid(arm) for arm in best_arms(table, output, common))
    last = command("run", "-m", *common, f"hydra.sweeper.grids=[{grids}]", _seeds(table.seeds))
    return max(code, last)


def best_arms(table: Table, output: Path, common: Sequence[str]) -> Iterator[Mapping[str, str]]:
    """Yield the overrides of each arm with the best value of its tuning runs.

    A value at which a run failed is not chosen.

    Raises:
        RecordError: if runs of a value are missing, or one failed at each.
    """
    assert table.tuned is not None
    runs, _ = load(output)
    found: dict[str, dict[int, Run]] = {}
    # Another experiment may have the same run; the one that finished counts.
    for run in sorted(runs, key=lambda run: run.finished):
        if run.seed in table.tuning_seeds and run.result.status in ("finished", "failed"):
            found.setdefault(str(run.result.identity), {})[run.seed] = run
    for arm, values in arms(table.tuned, common).items():
        named, means = " ".join(f"{k}={v}" for k, v in arm), {}
        for value, identity in values.items():
            tuning = [*found.get(identity, {}).values()]
            if len(tuning) != len(table.tuning_seeds):
                raise RecordError(
                    f"{output}: {named} at {table.tuned}={value} has {len(tuning)} of "
                    f"{len(table.tuning_seeds)} tuning runs; run the same command again"
                )
            if all(run.finished for run in tuning):
                means[value] = fmean(run.selection for run in tuning)
        if not means:
            raise RecordError(
                f"{output}: {named}: a tuning run failed at every {table.tuned}; see their error "
                "lines above, fix the cause and run the same command again"
            )
        best = (max if tuning[0].higher_is_better else min)(means, key=lambda value: means[value])
        yield {**dict(arm), table.tuned: best}


def arms(key: str, common: Sequence[str]) -> dict[tuple[tuple[str, str], ...], dict[str, str]]:
    """Return the identity of each arm, by its overrides, at each value of `key`."""
    from heterolora.harness.config import identity  # late, for its schema takes time to import
    from heterolora.harness.runs.prepare import prepare

    found: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    with composing():
        sweeper = compose("config", [*common], return_hydra_config=True).hydra.sweeper
        loader = GlobalHydra.instance().config_loader()
        for overrides in combinations(loader, sweeper, []):
            settings: dict[str, Any] = dict(one.split("=", 1) for one in overrides)
            value = settings.pop(key)
            config = prepare(compose("config", [*common, *overrides]))
            found.setdefault(tuple(settings.items()), {})[value] = identity(config)
    return found


def kept(archives: Path, name: str) -> list[Path]:
    """Return the archives of an experiment, one for each task."""
    return sorted(archives.glob(f"{name}-*{ARCHIVE}"))


def keep(output: Path, archives: Path, name: str) -> None:
    """Add the finished runs of an experiment to its archives."""
    for folder in sorted(path for path in (output / name).glob("*") if path.is_dir()):
        archive.keep(folder, archives / f"{name}-{folder.name}{ARCHIVE}")


def command(*arguments: str) -> int:
    """Run a command of this project in a process, which gets the signals of this one.

    Returns:
        Its exit code, as a shell gives it.
    """
    # A process group of its own, so that Ctrl-C in a terminal reaches it only once, from here.
    with subprocess.Popen(
        [sys.executable, "-m", "heterolora", *arguments], process_group=0
    ) as process:

        def forward(number: int, _: FrameType | None) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

        before = {number: signal.signal(number, forward) for number in FORWARDED}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return code if code >= 0 else INTERRUPTED - code


def _grid(arm: Mapping[str, str]) -> str:
    """Return the overrides of an arm as a grid in Hydra's grammar."""
    return "{" + ",".join(f"{key}:'{value}'" for key, value in arm.items()) + "}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed={','.join(map(str, seeds))}"
