"""A table of the paper from the records of runs, beside the paper's numbers.

python scripts/report.py outputs --table 4
python scripts/report.py outputs --table 4 --format latex --output table4.tex
python scripts/report.py outputs/main --table 2 --where training.epochs=5 --figures figures
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from omegaconf import OmegaConf
from rich.console import Console

from heterolora.errors import RecordError, UserError, one_line
from heterolora.reporting.load import Run, load
from heterolora.reporting.render import FORMATS, show
from heterolora.reporting.report import Report
from heterolora.reporting.tables import NAMES, report, runs_for
from heterolora.tracking.sinks import Row


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit code 2."""
        print(f"error: {message}; --help lists the options", file=sys.stderr)
        raise SystemExit(UserError.exit_code)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    assert __doc__ is not None
    summary, examples = __doc__.split("\n\n", 1)
    parser = Parser(
        description=summary, epilog=examples, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("outputs"), help="holds runs (outputs)"
    )
    parser.add_argument("--table", required=True, choices=NAMES)
    parser.add_argument("--format", default="terminal", choices=[*FORMATS])
    parser.add_argument("--output", type=Path, metavar="FILE", help="write here, not to the screen")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only runs with this setting, such as training.epochs=5; may be repeated",
    )
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="draw its figures here")
    parser.add_argument(
        "--wandb", action="store_true", help="log tables and figures to Weights & Biases"
    )
    return parser.parse_args(arguments)


def selected(runs: Sequence[Run], conditions: Sequence[str]) -> list[Run]:
    """The runs whose settings fulfil every `KEY=VALUE`."""
    given = OmegaConf.from_dotlist(list(conditions))
    wanted = {key: OmegaConf.select(given, key) for key in (c.split("=")[0] for c in conditions)}
    return [run for run in runs if all(run.setting(k) == value for k, value in wanted.items())]


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


def plain(made: Report) -> dict[str, list[Row]]:
    """Every table of a report as rows; None for a number that is not known."""
    frames = {part.title: part.frame for part in made.sections} | {"numbers": made.numbers}
    known = {name: f.astype(object).where(f.notna(), None) for name, f in frames.items()}
    return {name: frame.to_dict("records") for name, frame in known.items()}


def main(arguments: Sequence[str]) -> None:
    """Report, draw and log what is asked."""
    asked = parsed(arguments)
    aside = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    runs = runs_for(asked.table, selected(load(asked.folder), asked.where))
    made = report(asked.table, runs)
    write(made, asked.format, asked.output)
    figures: list[Path] = []
    if asked.figures is not None:
        # matplotlib takes longer to import than a table to make; wandb likewise.
        from heterolora.reporting.figures import draw

        figures = draw(runs, asked.figures)
        for figure in figures:
            aside.print(figure)
    if asked.wandb:
        from heterolora.tracking.wandb_report import log_report

        log_report(
            made.title, plain(made), figures, asked.folder, runs[0].config["tracking"], aside
        )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(problem.exit_code) from None
