"""Several trainings at once, each as if it were alone."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Generic

from torch import Tensor

from heterolora.errors import one_line
from heterolora.training.engines.local import LocalEngine
from heterolora.training.engines.packed import PackedEngine, share_frozen
from heterolora.training.signals import Signals, Stopped
from heterolora.training.trainer import Result, Step, Steps


class HeldSignals(Signals):
    """Signals of one of several trainings: it saves its state, but does not stop by itself."""

    def __init__(self, shared: Signals) -> None:
        super().__init__()
        self._shared = shared

    def __enter__(self) -> "HeldSignals":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    @property
    def waiting(self) -> bool:
        """Whether a signal has been received for all of them."""
        return self._shared.waiting

    def obey(self) -> None:
        """Do nothing: whoever drives all trainings obeys."""


class Together(Generic[Result]):
    """Drives several trainings in rounds; each round makes the next step of all in one pass.

    Args:
        trainings: callables that start a training, given the signals that it has to heed. All that
            they train must be packable: see `PackedEngine`.
        max_packed: maximum number of trainings under way at a time; as one ends, the next begins.
            Fewer are used where the last ones would otherwise hardly fill their pass.
    """

    def __init__(
        self, trainings: Iterable[Callable[[Signals], Steps[Result]]], max_packed: int
    ) -> None:
        self._pending = deque(enumerate(trainings))
        waves = math.ceil(len(self._pending) / max_packed)
        self._most = math.ceil(len(self._pending) / max(waves, 1))
        self._steps: dict[int, Steps[Result]] = {}
        self._next: dict[int, Step] = {}
        self._results: dict[int, Result] = {}
        self._engines: dict[tuple[int, ...], PackedEngine] = {}
        self._signals = Signals()

    def drive(self) -> list[Result]:
        """Make every step of all trainings; return their results, in order.

        A training that raises an Exception of its own ends all of them: it has to return its
        failure as a result instead.
        """
        with self._signals:
            try:
                while self._pending or self._next:
                    stopping = self._signals.waiting  # if so, all save before their next step
                    while self._pending and len(self._next) < self._most and not stopping:
                        self._begin()
                    self._round()
                    if stopping:
                        self._signals.obey()
            except BaseException as error:
                self._stop(error)
                raise
        return [self._results[index] for index in sorted(self._results)]

    def _begin(self) -> None:
        index, start = self._pending.popleft()
        self._steps[index] = start(HeldSignals(self._signals))
        self._advance(index, partial(next, self._steps[index]))
        if index in self._next:
            same = [i for i in self._next if self._next[i].trainer.engine.adapters.sites]
            if index in same and len(same) > 1:
                models = [self._next[i].trainer.engine.adapters.model for i in same]
                share_frozen(models[-1], models[0])

    def _advance(self, index: int, go_on: Callable[[], Step]) -> None:
        """Advance a training to its next step, or to its end."""
        try:
            self._next[index] = go_on()
        except StopIteration as end:
            self._next.pop(index, None)
            del self._steps[index]
            self._engines = {key: e for key, e in self._engines.items() if index not in key}
            self._results[index] = end.value

    def _round(self) -> None:
        """Make the next step of each training; those with equally many examples share one pass.

        Some are made alone: see `LocalEngine.alone`.
        """
        groups: dict[tuple[int, int | None], list[int]] = {}
        for index, step in self._next.items():
            engine = _engine(step)
            alone = index if engine.alone(step.batch) else None
            groups.setdefault((len(step.batch["input_ids"]), alone), []).append(index)
        for indices in groups.values():
            started = time.perf_counter()
            try:
                losses = self._made(indices)
            except Exception as error:
                for index in indices:
                    self._advance(index, partial(self._steps[index].throw, error))
                continue
            clocks = [self._next[index].trainer.clock for index in indices]
            booked = 0.0  # by what each training does between its steps
            for index, clock, loss in zip(indices, clocks, losses, strict=True):
                before = sum(clock.seconds.values())
                clock.restart()
                self._advance(index, partial(self._steps[index].send, loss))
                booked += sum(clock.seconds.values()) - before
            # No waiting for the device here: its outstanding work counts towards the next rounds.
            share = (time.perf_counter() - started - booked) / len(indices)
            for clock in clocks:
                clock.seconds["training"] += share

    def _made(self, indices: Sequence[int]) -> list[Tensor]:
        """Make steps that all have the same number of examples."""
        steps = [self._next[index] for index in indices]
        if len(steps) == 1:
            return [steps[0].make()]
        key = tuple(indices)
        if key not in self._engines:
            self._engines[key] = PackedEngine([_engine(step) for step in steps])
        return self._engines[key].step([step.batch for step in steps])

    def _stop(self, error: BaseException) -> None:
        """Let every training under way bring its record into order."""
        if isinstance(error, Exception):  # from one of them or this process; not the others' fault
            error = Stopped(f"ended with other runs: {one_line(error)}")
        for index in list(self._next):
            with suppress(BaseException):  # `error` itself is raised once, for all of them
                self._steps[index].throw(error)


def _engine(step: Step) -> LocalEngine:
    engine = step.trainer.engine
    assert isinstance(engine, LocalEngine)
    return engine
