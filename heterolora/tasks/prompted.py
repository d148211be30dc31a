"""Classification of texts made from columns by templates, optionally with marked words."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from heterolora.errors import DataError, Problem
from heterolora.settings import Situation, setting
from heterolora.tasks.base import Columns, Examples
from heterolora.tasks.classification import Classification
from heterolora.tasks.tokens import check_columns, check_texts

BY_CHARACTERS = {"column", "start", "end", "by"}
BY_WORDS = {"column", "word", "span", "by"}
"""The keys of the two kinds of marks."""


@dataclass(frozen=True, kw_only=True)
class Prompted(Classification):
    """Classify one text or a pair of texts, each made from a template."""

    sentences: tuple[str, ...] = setting(
        help="one or two templates, in which {column} stands for a column's text",
        example="['{premise}', '{hypothesis}']",
    )
    marks: tuple[dict[str, str], ...] = setting(
        (),
        help="spans to mark in a column, with `by` before and after: between the characters given "
        "by the columns `start` and `end`, or from the word given by the column `word`, as many "
        "words as the text in the column `span` has",
        example="[{column: sentence, start: start, end: end, by: '*'}]",
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the templates name, those that position marks, and the label."""
        placed = [mark[key] for mark in self.marks for key in mark if key not in ("column", "by")]
        label = [self.label] if self.label is not None else []
        return tuple(dict.fromkeys([*fields_of(self.sentences), *placed, *label]))

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Check that templates name columns, but not the label, and that marks have a position."""
        yield from super().problems(situation)
        for template in self.sentences:
            yield from template_problems("sentences", template, self.label)
        known = fields_of(self.sentences)
        for mark in self.marks:
            if mark.keys() not in (BY_CHARACTERS, BY_WORDS):
                yield Problem(
                    "marks",
                    str(dict(mark)),
                    "must have the keys column, start, end and by, or column, word, span and by",
                    "for example {column: text, start: start, end: end, by: '*'}",
                )
            elif mark["column"] not in known:
                rule, remedy = "no template contains the column", f"name one of {', '.join(known)}"
                yield Problem("marks", str(dict(mark)), rule, remedy)

    def check(self, columns: Columns, where: str) -> Examples:
        """Check that texts are strings, marks lie within them, and labels are the task's."""
        check_columns(columns, dict.fromkeys(self.columns, "task.sentences"), where)
        texts = {name: columns[name] for name in fields_of(self.sentences)}
        for name in texts:
            check_texts(columns, name, where)
        for name in dict.fromkeys(mark["column"] for mark in self.marks):
            texts[name] = self._marked(name, columns, where)
        made = {template: filled(template, texts) for template in self.sentences}
        return Examples(made | self.checked_labels(columns, where))

    def _marked(self, name: str, columns: Columns, where: str) -> list[str]:
        """Return the column with its marks inserted."""
        marks = [mark for mark in self.marks if mark["column"] == name]
        texts = []
        for row, text in enumerate(columns[name]):
            places = []
            for mark in marks:
                span = _span(mark, text, {key: columns[mark[key]][row] for key in _places(mark)})
                if span is None:
                    said = ", ".join(
                        f"{mark[key]}={columns[mark[key]][row]}" for key in _places(mark)
                    )
                    raise DataError(
                        f"{where}: row {row} has {said}, which is not in its {name}; repair or "
                        "drop that row"
                    )
                places += [(place, mark["by"]) for place in span]
            for place, by in sorted(places, reverse=True):
                text = text[:place] + by + text[place:]
            texts.append(text)
        return texts


def _places(mark: Mapping[str, str]) -> tuple[str, str]:
    """Return the keys of a mark that hold the columns giving its position."""
    return ("start", "end") if "start" in mark else ("word", "span")


def _span(mark: Mapping[str, str], text: str, at: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the first marked character and the one after the last; None if out of range."""
    if "start" in mark:
        start, end = at["start"], at["end"]
        return (start, end) if 0 <= start < end <= len(text) else None
    words = [(word.start(), word.end()) for word in re.finditer(r"\S+", text)]
    first, last = at["word"], at["word"] + len(at["span"].split()) - 1
    return (words[first][0], words[last][1]) if 0 <= first <= last < len(words) else None


def fields_of(templates: Sequence[str]) -> list[str]:
    """Return the columns that templates name, each once; malformed templates name none."""
    found: list[str] = []
    for template in templates:
        try:
            found += [name for _, name, _, _ in Formatter().parse(template) if name]
        except ValueError:
            continue
    return list(dict.fromkeys(found))


def template_problems(setting: str, template: str, label: str | None) -> Iterator[Problem]:
    """Yield what is wrong with a template: malformed, naming no column, or naming the label."""
    names = fields_of([template])
    try:
        plain = all(
            name is None or (name.isidentifier() and not spec and not conversion)
            for _, name, spec, conversion in Formatter().parse(template)
        )
    except ValueError:
        plain = False
    if not plain or not names:
        remedy = "for example '{sentence}', with double braces for any others"
        yield Problem(setting, repr(template), "must name columns in braces", remedy)
    elif label in names:
        rule = "must not contain the label column"
        yield Problem(setting, repr(template), rule, f"leave {label} out")


def filled(template: str, texts: Mapping[str, Sequence[str]]) -> list[str]:
    """Fill in a template for each row, replacing its columns by their texts."""
    names = fields_of([template])
    rows = zip(*(texts[name] for name in names), strict=True)
    return [template.format(**dict(zip(names, row, strict=True))) for row in rows]
