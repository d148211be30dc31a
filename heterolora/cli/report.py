"""A table of the paper from the records of runs, beside the paper's numbers.

python scripts/report.py outputs
python scripts/report.py outputs --table table4
python scripts/report.py outputs --table table4 --format latex --output table4.tex
python scripts/report.py outputs/main --table table2 --where training.epochs=5 --figures figures
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from rich.console import Console

from heterolora.cli.arguments import Parser
from heterolora.errors import RecordError, UserError, one_line
from heterolora.locations import CONF
from heterolora.records.load import load
from heterolora.reporting import page
from heterolora.reporting.cells import reported, runs_of
from heterolora.reporting.frame import frame, matching
from heterolora.reporting.layout import experiments, frequencies, read
from heterolora.reporting.render import FORMATS, show
from heterolora.reporting.report import Report
from heterolora.reporting.tables import report

EXPERIMENTS = CONF / "experiment"


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    assert __doc__ is not None
    summary, examples = __doc__.split("\n\n", 1)
    known = experiments(EXPERIMENTS)
    titles = "".join(f"  {name:<14} {read(file).title}\n" for name, file in known.items())
    parser = Parser(
        description=summary,
        epilog=f"tables:\n{titles}\nexamples:\n{examples}",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("outputs"),
        help="folder with the runs (default: outputs)",
    )
    parser.add_argument(
        "--table",
        choices=known,
        metavar="NAME",
        type=lambda name: f"table{name}" if name.isdecimal() else name,
        help="one of the names below (4 means table4); needed if the folder holds several",
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
        help="only runs with this setting, such as training.epochs=5; may be repeated",
    )
    parser.add_argument(
        "--figures",
        type=Path,
        metavar="FOLDER",
        help="draw its figures here, and a page of everything",
    )
    parser.add_argument(
        "--wandb", action="store_true", help="log tables and figures to Weights & Biases"
    )
    return parser.parse_args(arguments)


def conditions(given: Sequence[str]) -> dict[str, Any]:
    """The values that each `KEY=VALUE` asks for, by dotted key."""
    values = OmegaConf.from_dotlist(list(given))
    asked = {key: OmegaConf.select(values, key) for key in (one.split("=")[0] for one in given)}
    return {
        key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for key, value in asked.items()
    }


def table_of(folder: Path, runs: pd.DataFrame) -> str:
    """The one experiment that the runs are of."""
    names = {str(name).split("/")[0] for name in runs["name"]}
    found = sorted(names & experiments(EXPERIMENTS).keys())
    if len(found) != 1:
        which = f"runs of {', '.join(found)}" if found else "no run of an experiment"
        raise RecordError(f"{folder}: holds {which}; choose a table with --table NAME")
    return found[0]


def write(made: Report, style: str, output: Path | None) -> None:
    """To a file or the screen."""
    if output is not None:
        try:
            output.write_text(FORMATS[style](made))
        except OSError as error:
            raise RecordError(
                f"--output {output}: cannot be written ({one_line(error)}); choose another file"
            ) from error
    elif style == "terminal" and sys.stdout.isatty():
        show(made, Console())
    else:
        sys.stdout.write(FORMATS[style](made))


def plain(made: Report) -> dict[str, list[dict[str, Any]]]:
    """Every table of a report as rows; None for a number that is not known."""
    frames = {part.title: part.frame for part in made.sections} | {"numbers": made.numbers}
    known = {name: f.astype(object).where(f.notna(), None) for name, f in frames.items()}
    return {name: frame.to_dict("records") for name, frame in known.items()}


def main(arguments: Sequence[str]) -> None:
    """Report, draw and log what is asked."""
    asked = parsed(arguments)
    aside = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    records, left_out = load(asked.folder)
    every = frame(records)
    name = asked.table or table_of(asked.folder, every)
    table = read(EXPERIMENTS / f"{name}.yaml")
    runs = runs_of(table, every[matching(every, conditions(asked.where))])
    made = report(table, runs, left_out)
    write(made, asked.format, asked.output)
    figures: list[Path] = []
    if asked.figures is not None:
        # matplotlib takes longer to import than a table to make; wandb likewise.
        from heterolora.reporting.figures import draw

        shown = reported(table, runs)
        figures = draw(shown, asked.figures, frequencies(EXPERIMENTS))
        figures.append(page.write(made, shown, asked.figures))
        for figure in figures:
            aside.print(figure)
    if asked.wandb:
        from heterolora.loggers.wandb import Wandb
        from heterolora.loggers.wandb_report import log_report

        tracking = asdict(Wandb()) | runs["run"].iloc[0].tracking.get("wandb", {})
        log_report(made.title, plain(made), figures, asked.folder, tracking, aside)


def run() -> None:
    """The script."""
    try:
        main(sys.argv[1:])
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(problem.exit_code) from None
