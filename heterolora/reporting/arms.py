"""Runs by arm: one arm is everything that shapes a run's numbers but its seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from heterolora.config import NOT_IN_IDENTITY
from heterolora.reporting.load import Run

Settings = Mapping[str, Any]
"""Values by dotted key."""

CONTROL = "constant"
"""The proxy of random allocation: its equal scores, ties and churn are what it is for."""

FIRST = (
    *("strategy.name", "proxy.name", "proxy.weights", "proxy.objective"),
    *("rank_budget", "search_space.pool", "strategy.searches_per_epoch"),
)
"""The keys that begin a label, in this order."""

WORDS: Mapping[str, Callable[[Any], str]] = {
    "strategy.name": str,
    "proxy.name": str,
    "proxy.weights": lambda weights: f"{weights} weights",
    "rank_budget": lambda ranks: "r" + "/".join(str(rank) for rank in dict.fromkeys(ranks)),
    "search_space.pool": str,
    "strategy.searches_per_epoch": lambda searches: f"{searches}/epoch",
    "strategy.enable_rate": lambda rate: f"{100 * rate:g} % on",
    "search_space.projections": lambda roles: "+".join(roles) or "no LoRA",
    "search_space.shortcuts": lambda roles: "+".join(roles) or "no shortcuts",
    "optimizer.learning_rate": lambda rate: f"lr {rate:g}",
    "task.name": str,
    "model.name": str,
}


@dataclass(frozen=True)
class Arm:
    """The finished runs of one configuration over seeds.

    Attributes:
        label: the strategy, the proxy, and what else tells the arm from those beside it.
        runs: one for each seed, the seeds ascending.
    """

    label: str
    runs: tuple[Run, ...]

    def setting(self, key: str) -> Any:
        """The value that all runs have for a dotted key."""
        return self.runs[0].setting(key)

    @cached_property
    def settings(self) -> Settings:
        """What shapes the numbers of its runs."""
        return settings(self.runs[0])

    @property
    def searched(self) -> tuple[Run, ...]:
        """The runs that searched."""
        return tuple(run for run in self.runs if run.searches)


def arms(runs: Sequence[Run]) -> list[Arm]:
    """The arms of the finished runs, in the order of their labels.

    Of runs that two experiments made of the same configuration and seed, the first counts.
    """
    found: dict[str, dict[int, Run]] = {}
    for run in runs:
        if run.finished:
            found.setdefault(run.result["identity"], {}).setdefault(run.seed, run)
    by_seed = [tuple(of_arm[seed] for seed in sorted(of_arm)) for of_arm in found.values()]
    names = labels([settings(of_arm[0]) for of_arm in by_seed])
    return sorted(map(Arm, names, by_seed), key=lambda arm: arm.label)


def settings(run: Run) -> Settings:
    """What shapes the numbers of a run; the two ranks of a budget are one value."""
    flat = _flat(run.config, NOT_IN_IDENTITY)
    ranks = (flat.pop("rank_budget.lora_rank"), flat.pop("rank_budget.shortcut_rank"))
    return {**flat, "rank_budget": ranks}


def labels(among: Sequence[Settings]) -> list[str]:
    """A label for each of some settings: the strategy, the proxy, and where they differ.

    Two settings that differ have two labels. `model.name`, `task.name` and the like stand in it
    where any two differ; any other setting where it differs between two of the same model and
    task, and of the same name in its own section: a proxy without batches tells nothing of one
    that has them.
    """
    return [_label(own, among) for own in among]


def _label(own: Settings, among: Sequence[Settings]) -> str:
    ordered = [key for key in FIRST if key in own] + [key for key in own if key not in FIRST]
    head = [str(own[key]) for key in ("strategy.name", "proxy.name") if own.get(key) is not None]
    rest = [
        WORDS.get(key, lambda value, key=key: f"{_leaf(key)} {_plain(value)}")(own[key])
        for key in ordered
        if key not in ("strategy.name", "proxy.name")
        and own[key] is not None
        and _tells_apart(key, own, among)
    ]
    return ", ".join([*([" ".join(head)] if head else []), *rest])


def _tells_apart(key: str, own: Settings, among: Sequence[Settings]) -> bool:
    section, _, leaf = key.partition(".")
    same = () if leaf == "name" else ("model.name", "task.name", f"{section}.name")
    peers = [other for other in among if all(other.get(name) == own.get(name) for name in same)]
    return any(other.get(key) != own[key] for other in peers)


def _leaf(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")


def _plain(value: Any) -> str:
    return "+".join(str(part) for part in value) if isinstance(value, list) else str(value)


def _flat(
    values: Mapping[str, Any], without: Mapping[str, Any], prefix: str = ""
) -> dict[str, Any]:
    """Values by dotted key, but for those that `without` marks with True."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        apart = without.get(key, {})
        if apart is True:
            continue
        if isinstance(value, dict):
            flat |= _flat(value, apart, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
