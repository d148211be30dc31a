"""Several runs at once, each as if it were alone."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from heterolora.errors import one_line
from heterolora.harness.runs.signals import Stopped, signals
from heterolora.losses import Batch
from heterolora.training.clock import Clock
from heterolora.training.engines.local import LocalEngine
from heterolora.training.engines.packed import PackedEngine, packable, share_frozen

Pause = Callable[[Callable[[], None]], None]
"""The `pause` of a trainer."""


class Training(Protocol):
    """What a pack needs of each run; a `Trainer` has it, too."""

    @property
    def engine(self) -> LocalEngine:
        """What makes the steps of the run alone."""

    @property
    def clock(self) -> Clock:
        """Adds up the seconds of the run."""

    def batches(self) -> Iterator[Batch]:
        """Yield the batch of each remaining step, as `Trainer.batches` does."""

    def record(self, loss: Tensor) -> None:
        """Count a step that has been made, as `Trainer.record` does."""


Opening = Callable[[ExitStack, Pause], Training]
"""Opens a run: enters its contexts on the stack, and returns it, given its trainer's `pause`."""


@dataclass(eq=False)
class Member:
    """A run under way.

    Attributes:
        contexts: those that the run was opened in; an error goes through them.
        training: the run.
        batches: the batches that are left.
        batch: the batch of the next step.
        packable: whether its steps can share a pass with those of others.
    """

    contexts: ExitStack = field(default_factory=ExitStack)
    training: Training = field(init=False)
    batches: Iterator[Batch] = field(init=False)
    batch: Batch | None = None
    packable: bool = False


class Pack:
    """Trains several runs in rounds, each of which makes the next step of all, in one pass.

    An error of one run goes through the contexts in which it was opened; if these let it through,
    it ends all runs.

    Args:
        openings: open the runs, whose models and search spaces must be equal: see `PackedEngine`.
        max_packed: maximum number of runs under way at a time; as one ends, the next begins. Fewer
            are used where the last ones would otherwise hardly fill their pass.
    """

    def __init__(self, openings: Iterable[Opening], max_packed: int) -> None:
        self._pending = deque(openings)
        waves = math.ceil(len(self._pending) / max_packed)
        self._most = math.ceil(len(self._pending) / max(waves, 1))
        self._members: list[Member] = []
        self._engines: dict[tuple[Member, ...], PackedEngine] = {}

    def train(self) -> None:
        """Make every step of all runs.

        Once a signal has been received, each saves its state before its next step, and no other
        begins.
        """
        with signals.deferred():
            try:
                while self._pending or self._members:
                    stopping = signals.waiting
                    while self._pending and len(self._members) < self._most and not stopping:
                        self._begin(self._pending.popleft())
                    self._round()
                    if stopping:
                        signals.obey()
            except BaseException as error:
                self._stop(error)
                raise

    def _begin(self, opening: Opening) -> None:
        member = Member()

        def begin() -> None:
            member.training = opening(member.contexts, _save_if_stopping)
            member.batches = member.training.batches()
            member.batch = next(member.batches, None)

        self._within(member, begin)
        if member.batch is None:
            return
        engine = member.training.engine
        member.packable = packable(engine)
        others = [one.training.engine.adapters for one in self._members]
        first = next((adapters for adapters in others if adapters.sites), None)
        if first is not None and engine.adapters.sites:
            share_frozen(engine.adapters.model, first.model)
        self._members.append(member)

    def _round(self) -> None:
        """Make the next step of each run; those with equally many examples share one pass."""
        groups: dict[tuple[int, Member | None], list[Member]] = {}
        for member in self._members:
            assert member.batch is not None
            alone = not member.packable or len(member.training.engine.parts(member.batch)) > 1
            key = len(member.batch["input_ids"]), member if alone else None
            groups.setdefault(key, []).append(member)
        for members in groups.values():
            self._step(members)

    def _step(self, members: Sequence[Member]) -> None:
        """Make the next step of runs in one pass, and book its time to them in equal shares."""
        started = time.perf_counter()
        try:
            losses = self._losses(members)
        except Exception as error:
            for member in members:
                self._end(member, error)
            return
        clocks = [member.training.clock for member in members]
        booked = 0.0  # by what each run does between its steps
        for member, clock, loss in zip(members, clocks, losses, strict=True):
            before = sum(clock.seconds.values())
            clock.restart()
            self._advance(member, loss)
            booked += sum(clock.seconds.values()) - before
        # No waiting for the device here: its outstanding work counts towards the next rounds.
        share = (time.perf_counter() - started - booked) / len(members)
        for clock in clocks:
            clock.seconds["training"] += share

    def _losses(self, members: Sequence[Member]) -> list[Tensor]:
        engines = [member.training.engine for member in members]
        batches = [member.batch for member in members if member.batch is not None]
        if len(members) == 1:
            return [engines[0].step(batches[0])]
        key = tuple(members)
        if key not in self._engines:
            self._engines[key] = PackedEngine(engines)
        return self._engines[key].step(batches)

    def _advance(self, member: Member, loss: Tensor) -> None:
        """Record a step of a run, and get its next batch; at its end, close it."""

        def advance() -> None:
            member.training.record(loss)
            member.batch = next(member.batches, None)

        self._within(member, advance)

    def _within(self, member: Member, action: Callable[[], None]) -> None:
        """Do something in the contexts of a run, and leave these if it was the end of the run."""
        try:
            action()
        except BaseException as error:
            self._end(member, error)
        else:
            if member.batch is None:
                self._end(member, None)

    def _end(self, member: Member, error: BaseException | None) -> None:
        """Leave the contexts of a run, after an error or at its end."""
        if member in self._members:
            self._members.remove(member)
        self._engines = {key: one for key, one in self._engines.items() if member not in key}
        member.batch = None
        if error is None:
            member.contexts.close()
        elif not member.contexts.__exit__(type(error), error, error.__traceback__):
            raise error

    def _stop(self, error: BaseException) -> None:
        """Have every run under way bring its record into order."""
        if isinstance(error, Exception):  # from one of them or this process; not the others' fault
            error = Stopped(f"ended with other runs: {one_line(error)}")
        for member in list(self._members):
            with suppress(BaseException):  # `error` itself is raised once, for all of them
                self._end(member, error)


def _save_if_stopping(save: Callable[[], None]) -> None:
    if signals.waiting:
        save()
