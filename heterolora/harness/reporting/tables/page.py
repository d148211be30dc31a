"""A report as one self-contained HTML file: tables, curves, and allocations over time."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from heterolora.drawing.grid import on_frequency
from heterolora.harness.records.read import Run
from heterolora.harness.reporting.arms import Arm, arms
from heterolora.harness.reporting.figures.curves import Curve, by_subject, panels, proxy_colors
from heterolora.harness.reporting.report import Report
from heterolora.sites import ROLES, Site

NAME = "index.html"

LIMIT = 4_000_000
"""Maximum number of characters for the searches: beyond this, some are left out."""

WIDTH, HEIGHT = 440, 240
LEFT, RIGHT, TOP, BOTTOM = 40, 10, 8, 22
"""Sizes in pixels: of a panel of curves, and of the margins around its axes."""

SCALE = 1.7
"""Pixels per point of line width."""


def write(report: Report, runs: pd.DataFrame, folder: Path) -> Path:
    """Write the page of a report and of its finished runs; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / NAME
    file.write_text(page(report, arms(runs)), encoding="utf-8")
    return file


def page(report: Report, found: Sequence[Arm] = ()) -> str:
    """Return the page of a report; without arms it has only tables, and no script."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    searched = [arm for arm in found if arm.searched]
    every, data = _within(searched, LIMIT)
    return environment.get_template("page.html").render(
        report=report,
        subjects=_subjects(found),
        width=WIDTH,
        searched=searched,
        data=data,
        every=every,
    )


# ---- allocations


def _within(searched: Sequence[Arm], limit: int) -> tuple[int, dict[str, Any]]:
    """Return n, if every n-th search is kept so that they fit `limit`, and the allocations."""
    data = _allocations(searched, 1)
    every = math.ceil(len(json.dumps(data, separators=(",", ":"))) / limit)
    return every, data if every == 1 else _allocations(searched, every)


def _allocations(searched: Sequence[Arm], every: int) -> dict[str, Any]:
    """Return the data that the page's script draws.

    `spaces` has the layers, roles and sites (row, column) of each search space; all numbers of a
    run's sites are in that order. `on` is in percent of all its searches; scores have three digits.
    """
    spaces: dict[tuple[str, ...], int] = {}
    shown = []
    for arm in searched:
        runs = [_run(run, spaces, every) for run in arm.searched]
        shown.append({"label": arm.label, "runs": runs})
    return {"spaces": [_space(names) for names in spaces], "arms": shown}


def _run(run: Run, spaces: dict[tuple[str, ...], int], every: int) -> dict[str, Any]:
    names = tuple(sorted(run.searches[0].scores, key=_order))
    share = on_frequency([search.ranks for search in run.searches])
    last = len(run.searches) - 1
    return {
        "seed": run.seed,
        "space": spaces.setdefault(names, len(spaces)),
        "on": [_short(100 * share[name]) for name in names],
        "count": last + 1,
        "searches": [
            {
                "number": number + 1,
                **search.model_dump(include={"step", "epoch", "parameters", "tied", "degenerate"}),
                "scores": [_short(search.scores[name]) for name in names],
                "ranks": [search.ranks[name] for name in names],
            }
            for number, search in enumerate(run.searches)
            if number % every == 0 or number == last
        ],
    }


def _space(names: Sequence[str]) -> dict[str, Any]:
    sites = [Site.parse(name) for name in names]
    layers = sorted({site.layer for site in sites})
    roles = sorted({site.role for site in sites}, key=ROLES.index)
    places = [(layers.index(site.layer), roles.index(site.role)) for site in sites]
    return {"layers": layers, "roles": roles, "sites": places}


def _order(name: str) -> tuple[int, int]:
    site = Site.parse(name)
    return site.layer, ROLES.index(site.role)


def _short(value: float) -> float:
    """Round to three significant digits, as an integer where possible."""
    rounded = float(f"{value:.3g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e6 else rounded


# ---- curves


def _subjects(found: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return for each task and model its title and its panels, all on the same scales."""
    colors = proxy_colors(arm.setting("proxy.name") for arm in found)
    subjects = []
    for title, of_it in by_subject(found).items():
        parts = panels(of_it, colors)
        curves = [curve for part in parts for curve in part.curves]
        epochs = (0.5, max(max(curve.epochs) for curve in curves) + 0.5)
        low = min(min(curve.low) for curve in curves)
        high = max(max(curve.high) for curve in curves)
        margin = 0.04 * (high - low) or 1
        axes = _Axes(epochs, (low - margin, high + margin))
        panels_of_it = [
            {
                "title": part.title,
                "lines": [
                    axes.line(curve, shift)
                    for curve, shift in zip(part.curves, part.shifts, strict=True)
                ],
            }
            for part in parts
        ]
        metric = of_it[0].runs[0].metric_in_words
        subjects.append({"title": title, "metric": metric, "panels": panels_of_it, "axes": axes})
    return subjects


class _Axes:
    """Maps epochs and metrics to pixels."""

    width, height, left, bottom = WIDTH, HEIGHT, LEFT, HEIGHT - BOTTOM

    def __init__(self, epochs: tuple[float, float], values: tuple[float, float]) -> None:
        self._epochs, self._values = epochs, values

    @property
    def columns(self) -> list[tuple[float, str]]:
        """The position of each labeled epoch."""
        return [(self._x(tick), f"{tick:g}") for tick in _ticks(*self._epochs) if tick % 1 == 0]

    @property
    def rows(self) -> list[tuple[float, str]]:
        """The position of each labeled value."""
        return [(self._y(tick), f"{tick:g}") for tick in _ticks(*self._values)]

    def line(self, curve: Curve, shift: float) -> Mapping[str, Any]:
        """Return a curve in the form that the template draws."""
        xs = [self._x(epoch + shift) for epoch in curve.epochs]
        means, lows, highs = (
            [self._y(value) for value in values] for values in (curve.mean, curve.low, curve.high)
        )
        around = [*zip(xs, lows, strict=True), *reversed([*zip(xs, highs, strict=True)])]
        ranges = [f"M{x} {low}V{high}" for x, low, high in zip(xs, lows, highs, strict=True)]
        return {
            "label": curve.label,
            # Black would be invisible on a dark page.
            "color": "currentColor" if curve.color == "#000000" else curve.color,
            "dashes": " ".join(f"{SCALE * curve.width * part:g}" for part in curve.dashes),
            "width": SCALE * curve.width,
            "points": [*zip(xs, means, strict=True)],
            "band": around if curve.reference else [],
            "ranges": "" if curve.reference else "".join(ranges),
            "said": [
                f"epoch {epoch}: {mean:.1f} ({low:.1f} to {high:.1f})"
                for epoch, mean, low, high in zip(
                    curve.epochs, curve.mean, curve.low, curve.high, strict=True
                )
            ],
            "seeds": curve.seeds,
        }

    def _x(self, epoch: float) -> float:
        return _between(epoch, self._epochs, (LEFT, WIDTH - RIGHT))

    def _y(self, value: float) -> float:
        return _between(value, self._values, (HEIGHT - BOTTOM, TOP))


def _between(value: float, source: tuple[float, float], target: tuple[float, float]) -> float:
    share = (value - source[0]) / (source[1] - source[0])
    return round(target[0] + share * (target[1] - target[0]), 1)


def _ticks(low: float, high: float) -> list[float]:
    """Return about six round numbers between two others."""
    power = 10 ** math.floor(math.log10((high - low) / 6))
    step = next(power * one for one in (1, 2, 5, 10) if power * one * 6 >= high - low)
    return [step * one for one in range(math.ceil(low / step), math.floor(high / step) + 1)]
