"""A report in formats for people and for programs."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from heterolora.harness.reporting.report import Report

WIDTH = 100
"""Columns of a terminal report that is written to a file or a pipe."""


def terminal(report: Report) -> str:
    """Render as plain text, `WIDTH` columns wide; see `show` for a screen."""
    text = io.StringIO()
    show(report, Console(file=text, width=WIDTH, color_system=None))
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def show(report: Report, console: Console) -> None:
    """Print for a person: names left-aligned, numbers right-aligned."""
    console.print(Text(report.title, "bold"))
    console.print(Text(report.caption))
    for part in report.sections:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
        for name, words in zip(part.frame.columns, part.in_words, strict=True):
            table.add_column(name, justify="left" if words else "right", overflow="fold")
        for row in part.frame.itertuples(index=False):
            table.add_row(*map(escape, row), style="dim" if row[0].startswith("  ") else "")
        console.print(Text(f"\n{part.title}", "bold"), table, Text(part.explanation, "dim"))
    if report.notes:
        console.print("\n[bold]Notes[/bold]")
        listed = Table.grid(padding=(0, 1))
        for note in report.notes:
            listed.add_row("-", Text(note, overflow="fold"))
        console.print(listed)


def markdown(report: Report) -> str:
    """Render as GitHub-flavored Markdown."""
    parts = [f"## {report.title}", report.caption]
    for part in report.sections:
        frame = part.frame.map(lambda value: value.replace("|", "\\|"))
        table = frame.to_markdown(index=False, disable_numparse=True)
        parts += [f"### {part.title}", table, part.explanation]
    if report.notes:
        parts += ["### Notes", "\n".join(f"- {note}" for note in report.notes)]
    return "\n\n".join(parts) + "\n"


def latex(report: Report) -> str:
    """Render as tables for a document that loads booktabs."""
    parts = ["% \\usepackage{booktabs}", f"% {report.title}: {report.caption}"]
    for part in report.sections:
        caption = _tex(f"{report.title}. {part.title}. {part.explanation}")
        styled = part.frame.style.hide(axis="index").format(_tex).format_index(_tex, axis=1)
        table = styled.to_latex(hrules=True, caption=caption, position="t")
        parts.append(table.rstrip())
    if report.notes:
        items = "\n".join(f"  \\item {_tex(note)}" for note in report.notes)
        parts.append(f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}")
    return "\n\n".join(parts) + "\n"


def csv(report: Report) -> str:
    """Render the tidy numbers: one row per entry, unrounded, unknown ones empty."""
    return str(report.numbers.to_csv(index=False))


def html(report: Report) -> str:
    """Render a page by itself; see `page`."""
    from heterolora.harness.reporting.tables.page import page

    return page(report)


FORMATS: Mapping[str, Callable[[Report], str]] = {
    "terminal": terminal,
    "markdown": markdown,
    "latex": latex,
    "csv": csv,
    "html": html,
}

_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "<": r"$<$",
        ">": r"$>$",
    }
)


def _tex(text: str) -> str:
    """Escape LaTeX's special characters in `text`."""
    return text.translate(_TEX)
