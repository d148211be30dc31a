"""Arms: finished runs that differ only in the seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from heterolora.harness.config import Config
from heterolora.harness.records.read import Run, flat
from heterolora.harness.reporting.frame import ORIGINS, finished, shaping, shown
from heterolora.harness.reporting.layout import Settings
from heterolora.harness.reporting.statistics import Spread, spread

FIRST = (
    *("strategy.name", "proxy.name", "proxy.weights", "proxy.objective"),
    *("rank_budget", "search_space.pool", "strategy.searches_per_epoch"),
)
"""The keys that come first in a label, in this order."""

CONTENTS = ("model", "training data", "validation data")
"""Fingerprints that tell arms apart where the names are the same."""

SECTIONS = tuple(Config.model_fields)
"""The sections of a configuration, in order."""

WORDS: Mapping[str, Callable[[Any], str]] = {
    "proxy.weights": lambda weights: f"{weights} weights",
    "proxy.redraw": lambda redraw: "redrawn" if redraw else "drawn once",
    "rank_budget": lambda ranks: "r" + "/".join(str(rank) for rank in dict.fromkeys(ranks)),
    "selection.name": lambda name: f"{name} selection",
    "search_space.pool": str,
    "strategy.searches_per_epoch": lambda searches: f"{searches}/epoch",
    "strategy.enable_rate": lambda rate: f"{100 * rate:g}% on",
    "search_space.projections": lambda roles: "+".join(roles) or "no LoRA",
    "search_space.shortcuts": lambda roles: "+".join(roles) or "no shortcuts",
    "optimizer.learning_rate": lambda rate: f"lr {rate:g}",
    "task.name": str,
    "model.name": str,
}


@dataclass(frozen=True, eq=False)
class Arm:
    """Finished runs that differ only in the seed, or should.

    Attributes:
        label: the name of the arm.
        frame: the arm's rows of the frame of runs, in ascending order of seeds.
    """

    label: str
    frame: pd.DataFrame

    @property
    def runs(self) -> tuple[Run, ...]:
        """The records of the runs."""
        return tuple(self.frame["run"])

    @property
    def searched(self) -> tuple[Run, ...]:
        """The records of the runs that searched."""
        return tuple(run for run in self.runs if run.searches)

    def setting(self, key: str) -> Any:
        """Return the first run's value of a dotted key."""
        return self.runs[0].setting(key)

    @cached_property
    def settings(self) -> Settings:
        """The settings that determine its numbers; the two ranks of a budget form one value."""
        run = self.runs[0]
        own, origin = shaping(run), flat(run.provenance.row())
        own["model.name"] = run.setting("model.name")
        ranks = [own.pop(f"rank_budget.{kind}_rank") for kind in ("lora", "shortcut")]
        own["rank_budget"] = tuple(ranks)
        return own | {name: origin.get(ORIGINS[name]) for name in CONTENTS}

    def by_seed(self, column: str = "best") -> dict[int, float]:
        """Return a number for each seed; the mean if a seed has several runs."""
        seeds, values = self.frame["seed"].astype(int), self.frame[column].astype(float)
        if seeds.is_unique:  # a group for each would take ten times as long
            return dict(sorted(zip(seeds.tolist(), values.tolist(), strict=True)))
        return dict(values.groupby(seeds).mean())

    @cached_property
    def best(self) -> Spread | None:
        """The paper's statistic: the best epoch, over seeds."""
        return spread([*self.by_seed().values()])


def arms(runs: pd.DataFrame) -> list[Arm]:
    """Return the arms in a frame of runs, in the order of their labels.

    If two experiments contain runs of the same configuration and seed, the first one counts.
    """
    once = finished(runs).drop_duplicates(["identity", "seed"]).sort_values("seed", kind="stable")
    found = [Arm("", group) for _, group in once.groupby("identity", sort=False)]
    names = labels([arm.settings for arm in found])
    named = [Arm(label, arm.frame) for label, arm in zip(names, found, strict=True)]
    return sorted(named, key=lambda arm: arm.label)


def labels(among: Sequence[Settings]) -> list[str]:
    """Return a label for each of several settings: strategy, proxy, and where they differ.

    Two settings that differ get different labels. Names such as `model.name` and `task.name` are
    included wherever any two settings differ in them. Any other setting is included if it differs
    between two settings with the same model and task, and with the same name in its own section: a
    proxy without batches says nothing about one that has them.
    """
    found = []
    for own in among:
        named = ["method.name"] if own.get("method.name") else FIRST[:2]
        head = " ".join(own[key] for key in named if own.get(key) is not None)
        rest = [
            WORDS[key](own[key]) if key in WORDS else _in_words(key, own[key])
            for key in dict.fromkeys([*FIRST[2:], *sorted(own, key=_place)])
            if key not in (*FIRST[:2], "method.name")
            and own.get(key) is not None
            and _tells_apart(key, own, among)
        ]
        found.append(", ".join([*filter(None, [head]), *rest]))
    return found


def _place(key: str) -> tuple[int, str]:
    """Sort sections in the order of the schema: an archive has a run's common settings first."""
    section = key.partition(".")[0]
    return (SECTIONS.index(section) if section in SECTIONS else len(SECTIONS)), key


def _tells_apart(key: str, own: Settings, among: Sequence[Settings]) -> bool:
    section, _, leaf = key.partition(".")
    same = () if leaf == "name" else ("model.name", "task.name", f"{section}.name")
    peers = [other for other in among if all(other.get(name) == own.get(name) for name in same)]
    # Settings without a proxy or a selection are told apart by their strategy.
    return any(other.get(key) not in (own[key], *([None] * (leaf == "name"))) for other in peers)


def _in_words(key: str, value: Any) -> str:
    text = "+".join(map(str, value)) if isinstance(value, tuple) else shown(value)
    return f"{key.rpartition('.')[2].replace('_', ' ')} {text}"
