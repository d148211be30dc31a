"""Competitors that take turns, so that whatever else the machine does strikes all of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from benchmarks.setup import Size


class Competitor(Protocol):
    """What takes turns with others."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    def warm_up(self) -> None:
        """Do once what need not be done again."""

    def run(self) -> float:
        """One round; what was measured, in seconds unless it says so."""

    def check(self) -> None:
        """See that the round did what it was to do.

        Raises:
            RuntimeError: if it did not.
        """


@dataclass
class Act:
    """A competitor of one function, which returns what was measured."""

    name: str
    act: Callable[[], float]
    warm: Callable[[], object] = lambda: None

    def warm_up(self) -> None:
        """As given."""
        self.warm()

    def run(self) -> float:
        """As given."""
        return self.act()

    def check(self) -> None:
        """The function does it."""


def take_turns(
    competitors: Sequence[Competitor], size: Size, seconds: float
) -> dict[str, list[float]]:
    """What every competitor gave in every round; each round begins with another one.

    Args:
        competitors: with different names.
        size: how many rounds.
        seconds: on a CPU, after which no further round is begun if it would not end in time;
            one is always made.
    """
    begun = time.monotonic()
    for competitor in competitors:
        competitor.warm_up()
    measured: dict[str, list[float]] = {competitor.name: [] for competitor in competitors}
    assert len(measured) == len(competitors)
    first_round = time.monotonic()
    for number in range(size.rounds):
        now = time.monotonic()
        one = (now - first_round) / number if number else 0.0
        if number and now - begun + one > seconds * size.patience:
            break
        first = number % len(competitors)
        for competitor in (*competitors[first:], *competitors[:first]):
            measured[competitor.name].append(competitor.run())
            competitor.check()
    return measured


def now_on(device: torch.device) -> float:
    """The time when all that was asked of a device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
