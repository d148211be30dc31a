"""The curves of a sweep: which arms share a panel, and how they are told apart.

The figure and the page draw the same curves.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from heterolora.harness.records.schema import CONTROL
from heterolora.harness.reporting.arms import Arm, labels
from heterolora.harness.reporting.layout import Settings

PROXY_COLORS: Mapping[str, str] = {
    **{CONTROL: "#CC79A7", "gradnorm": "#0072B2"},
    **{"snip": "#D55E00", "synflow": "#009E73"},
}
"""Colors from Okabe and Ito, safe for red-green color blindness; the same in every figure."""

SPARE_COLORS = ("#E69F00", "#56B4E9", "#000000")
"""From the same palette, for users' proxies; its yellow is invisible on white."""

GRAY = "#777777"
"""The color of arms without a proxy."""

DASHES: Sequence[Sequence[float]] = ((), (4, 1.5), (1, 1.2), (5, 1.5, 1, 1.5))
"""Dash patterns, as strokes and gaps in line widths: as many as can be told apart."""

WIDTHS = (1.2, 0.6, 2.0)
"""Line widths in points: a proxy with more curves than dash patterns goes on to the next width."""


@dataclass(frozen=True, eq=False)
class Curve:
    """The metric of an arm after each epoch, over its seeds.

    Attributes:
        label: tells it apart within its panel; curves with the same label look the same in all
            panels.
        color: the color of its proxy; gray if it has none.
        dashes: one of `DASHES`.
        width: one of `WIDTHS`.
        reference: whether it has no proxy.
        seeds: the number of seeds.
        epochs: the epochs, counted from 1.
        mean: the mean over seeds after each epoch.
        low: the lowest seed after each epoch.
        high: the highest seed after each epoch.
    """

    label: str
    color: str
    dashes: Sequence[float]
    width: float
    reference: bool
    seeds: int
    epochs: Sequence[int]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    @classmethod
    def of(cls, arm: Arm, label: str, color: str, place: int) -> "Curve":
        """Return the curve of an arm that is number `place` among those of its color."""
        metrics = [[run.scale * row.metrics[run.metric] for row in run.epochs] for run in arm.runs]
        mean, low, high = (f(metrics, axis=0).tolist() for f in (np.mean, np.min, np.max))
        width, dash = divmod(place, len(DASHES))
        return cls(
            label,
            color,
            DASHES[dash],
            WIDTHS[width % len(WIDTHS)],
            arm.setting("proxy.name") is None,
            len(arm.runs),
            [row.epoch for row in arm.runs[0].epochs],
            *(mean, low, high),
        )


@dataclass(frozen=True, eq=False)
class Panel:
    """The contents of one pair of axes, references first."""

    title: str
    curves: Sequence[Curve]

    @property
    def shifts(self) -> list[float]:
        """How far each curve is shifted along the epochs, so that ranges stand side by side."""
        count = sum(not curve.reference for curve in self.curves)
        places = iter(np.linspace(-0.15, 0.15, count).tolist() if count > 1 else [0.0])
        return [0.0 if curve.reference else next(places) for curve in self.curves]


def proxy_colors(names: Iterable[str | None]) -> dict[str, str]:
    """Return a color for each proxy; those without a fixed color take the spare ones by name."""
    unknown = sorted({name for name in names if name is not None} - PROXY_COLORS.keys())
    spare = {name: SPARE_COLORS[index % len(SPARE_COLORS)] for index, name in enumerate(unknown)}
    return {**PROXY_COLORS, **spare}


def by_subject(found: Iterable[Arm]) -> dict[str, list[Arm]]:
    """Group arms by task and model."""
    subjects: dict[str, list[Arm]] = {}
    for arm in found:
        subject = f"{arm.setting('task.name')}, {arm.setting('model.name')}"
        subjects.setdefault(subject, []).append(arm)
    return subjects


def panels(arms: Sequence[Arm], colors: Mapping[str, str]) -> list[Panel]:
    """Make a panel for each strategy and, within it, for each setting other than the proxy's.

    An arm without a proxy is a reference: it appears in every panel that agrees with its settings,
    or in all panels if none does.

    Args:
        arms: arms of one task and model.
        colors: the color of each proxy.
    """
    of_proxy, shared = _names(arms)
    searched = [arm for arm in arms if of_proxy[arm]]
    references = [arm for arm in arms if not of_proxy[arm]]
    titles = list(dict.fromkeys(shared[arm] for arm in searched)) or ["no search"]
    fitting = {
        arm: [title for title in titles if _words(shared[arm]) <= _words(title)]
        for arm in references
    }
    names = {
        arm: arm.setting("strategy.name") if fitting[arm] else shared[arm] for arm in references
    } | {arm: of_proxy[arm] for arm in searched}
    labels_of: dict[str | None, set[str]] = {}
    for arm, name in names.items():
        labels_of.setdefault(arm.setting("proxy.name"), set()).add(name)
    curves = {}
    for arm, name in names.items():
        proxy = arm.setting("proxy.name")
        place = sorted(labels_of[proxy]).index(name)
        curves[arm] = Curve.of(arm, name, GRAY if proxy is None else colors[proxy], place)
    return [
        Panel(
            title,
            [curves[arm] for arm in references if title in (fitting[arm] or titles)]
            + [curves[arm] for arm in searched if shared[arm] == title],
        )
        for title in titles
    ]


def _names(arms: Sequence[Arm]) -> tuple[dict[Arm, str], dict[Arm, str]]:
    """Return the name of each arm's proxy, empty if it has none, and all its other settings."""
    parts: list[list[Settings]] = [
        [
            {key: value for key, value in arm.settings.items() if key.startswith("proxy.") is own}
            for arm in arms
        ]
        for own in (True, False)
    ]
    of_proxy, shared = (dict(zip(arms, labels(part), strict=True)) for part in parts)
    return of_proxy, shared


def _words(label: str) -> set[str]:
    return set(label.split(", ")[1:])
