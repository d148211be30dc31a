"""Print a table of runs, from their records: of an experiment, or of your own sweep.

python scripts/report.py outputs
python scripts/report.py outputs --table table4
python scripts/report.py outputs --table table4 --format latex --output table4.tex
python scripts/report.py outputs/main --table table2 --where training.epochs=5 --figures figures
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from rich.console import Console

from heterolora.errors import ConfigError, RecordError, one_line
from heterolora.harness.cli.commands.arguments import Parser
from heterolora.harness.paths import CONF
from heterolora.harness.records.load import load
from heterolora.harness.reporting.layout import Table, experiments, frequencies, read
from heterolora.harness.reporting.tables.render import FORMATS, show

if TYPE_CHECKING:
    import pandas as pd

    from heterolora.harness.reporting.report import Report

EXPERIMENTS = CONF / "experiment"


def parse_args(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    known = experiments(EXPERIMENTS)

    def titles() -> str:
        lines = (f"  {name:<14} {read(file).title}\n" for name, file in known.items())
        return f"tables:\n{''.join(lines)}\nexamples:\n"

    parser = Parser(__doc__, titles)
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("outputs"),
        help="folder of the runs (default: outputs)",
    )
    parser.add_argument(
        "--table",
        choices=known,
        metavar="NAME",
        type=lambda name: f"table{name}" if name.isdecimal() else name,
        help="a name from the list below (4 means table4); default: that of the experiment, if the "
        "folder has only one, else a table with one row per combination of settings",
    )
    parser.add_argument("--format", default="terminal", choices=[*FORMATS])
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write to this file instead of the screen"
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="use only runs with this setting, such as training.epochs=5; may be repeated",
    )
    parser.add_argument(
        "--figures",
        type=Path,
        metavar="FOLDER",
        help="draw figures in this folder, and write index.html with tables and figures",
    )
    parser.add_argument(
        "--wandb", action="store_true", help="also log tables and figures to Weights & Biases"
    )
    return parser.parse_args(arguments)


def conditions(given: Sequence[str], runs: pd.DataFrame) -> dict[str, Any]:
    """Return the value of each `KEY=VALUE`, by dotted key.

    Raises:
        ConfigError: if one is not such a pair, or names a key that no run has.
    """
    problems = []
    for one in given:
        key, equals, _ = one.partition("=")
        if not equals:
            problems.append(f"--where {one}: must be KEY=VALUE; for example training.epochs=5")
        elif key not in runs.columns:
            near = get_close_matches(key, [str(name) for name in runs.columns], n=1)
            remedy = f"did you mean {near[0]}?" if near else "see a run's config.yaml for its keys"
            problems.append(f"--where {one}: no run here has the key {key}; {remedy}")
    if problems:
        raise ConfigError(problems)
    values = OmegaConf.from_dotlist(list(given))
    selected = {key: OmegaConf.select(values, key) for key in (one.split("=")[0] for one in given)}
    return {
        key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for key, value in selected.items()
    }


def table_for(name: str | None, folder: Path, runs: pd.DataFrame) -> tuple[Table, pd.DataFrame]:
    """Return the table of a name, and the runs that it is made of.

    Without a name it is the table of the only experiment that the runs belong to, or else a table
    of the runs that belong to none.

    Raises:
        RecordError: if neither exists.
    """
    from heterolora.harness.reporting.frame import runs_of
    from heterolora.harness.reporting.tables.user_sweep import own_table

    of = runs["name"].map(lambda name: str(name).partition("/")[0])
    known = experiments(EXPERIMENTS)
    found = sorted({*of} & known.keys())
    own = runs[~of.isin(found)]
    if name is None and len(found) != 1 and len(own):
        return own_table(own, found), own
    if name is None and len(found) != 1:
        which = f"runs of {', '.join(found)}" if found else "no run"
        raise RecordError(f"{folder}: holds {which}; choose a table with --table NAME")
    table = read(known[name or found[0]])
    table = table.with_proxies(runs["proxy.name"].dropna() if "proxy.name" in runs else ())
    return table, runs_of(table, runs)


def write(report: Report, style: str, output: Path | None) -> None:
    """Write a report to a file or the screen.

    Raises:
        RecordError: if the file cannot be written.
    """
    if output is not None:
        try:
            output.write_text(FORMATS[style](report))
        except OSError as error:
            raise RecordError(
                f"--output {output}: cannot be written ({one_line(error)}); choose another file"
            ) from error
    elif style == "terminal" and sys.stdout.isatty():
        show(report, Console())
    else:
        sys.stdout.write(FORMATS[style](report))


def plain(report: Report) -> dict[str, list[dict[str, Any]]]:
    """Return every table of a report as rows, with None for numbers that are not known."""
    frames = {part.title: part.frame for part in report.sections} | {"numbers": report.numbers}
    known = {name: f.astype(object).where(f.notna(), None) for name, f in frames.items()}
    return {name: frame.to_dict("records") for name, frame in known.items()}


def main(arguments: Sequence[str]) -> None:
    """Print the tables, draw the figures and log both, as the arguments ask for."""
    args = parse_args(arguments)
    # pandas and SciPy take longer to import than it takes to print the help.
    from heterolora.harness.reporting.frame import frame, matching, reported
    from heterolora.harness.reporting.tables import page
    from heterolora.harness.reporting.tables.build import report

    aside = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    records, left_out = load(args.folder)
    every = frame(records)
    chosen = every[matching(every, conditions(args.where, every))]
    table, runs = table_for(args.table, args.folder, chosen)
    made = report(table, runs, left_out)
    write(made, args.format, args.output)
    figures: list[Path] = []
    if args.figures is not None:
        # matplotlib takes longer to import than a table to make; wandb likewise.
        from heterolora.harness.reporting.figures.draw import draw

        shown = reported(table, runs)
        figures = draw(shown, args.figures, frequencies(EXPERIMENTS), made.comparisons)
        figures.append(page.write(made, shown, args.figures))
        for figure in figures:
            aside.print(figure)
    if args.wandb:
        from heterolora.harness.loggers.wandb import Wandb
        from heterolora.harness.loggers.wandb_report import log_report

        tracking = asdict(Wandb()) | runs["run"].iloc[0].tracking.get("wandb", {})
        log_report(made.title, plain(made), figures, args.folder, tracking, aside)
