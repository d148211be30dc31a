"""The fine-tuning loop."""

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from heterolora.errors import STAY_FINITE, TrainingError
from heterolora.losses import Batch
from heterolora.state import Stateful, stateful
from heterolora.strategies import Search, Strategy
from heterolora.strategies.homogeneous import Homogeneous
from heterolora.tasks.encoded import Encoded
from heterolora.training.checkpoint import CheckpointManager
from heterolora.training.clock import Clock
from heterolora.training.engines import Engine
from heterolora.training.logging import Logger, tell_watchers
from heterolora.training.schedule import Schedule
from heterolora.training.signals import Signals
from heterolora.training.weights import Weights

Result = TypeVar("Result")


@dataclass
class Progress:
    """What a training has reached.

    Attributes:
        step: optimizer steps made.
        best: the row of the first epoch with the best metric.
        last: the row of the last epoch.
        losses: of the epoch's steps so far.
        logged: how many of `losses` are in the log.
        test: the best epoch, with its loss and metrics on the test split.
    """

    step: int = 0
    best: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    losses: list[float] = field(default_factory=list)
    logged: int = 0
    test: dict[str, Any] | None = None


@dataclass
class Trainer:
    """Fine-tunes adapters and head, with a search wherever the strategy has one. `fit` it once.

    Attributes:
        engine: makes the steps.
        train: the training split.
        validation: what is evaluated after each epoch, by the prefix of its metrics; that
            without a prefix chooses the best epoch.
        test: what the best epoch's weights are evaluated on once, at the end; needs `weights`.
        epochs: passes over the training split.
        batch_size: examples in a step.
        seed: of the order of the examples.
        metric: the metric that chooses the best epoch.
        higher_is_better: its direction.
        strategy: when to search.
        search: makes a search; needed by a strategy that asks for any.
        loggers: told of everything.
        schedule: the factor of the learning rate at a step; constant if None.
        max_steps: the end of the training, even in the middle of an epoch.
        patience: the training ends after so many epochs without a better one.
        log_every: steps between two rows of losses.
        weights: keeps the best and the last weights.
        checkpoints: keeps the state at every epoch's end, after `every_minutes`, and for signals.
        every_minutes: between two checkpoints.
        signals: that stop the process; between two steps, and when the state is saved.
    """

    engine: Engine
    train: Encoded
    validation: Mapping[str, Encoded]
    epochs: int
    batch_size: int
    seed: int
    metric: str
    higher_is_better: bool = True
    strategy: Strategy = field(default_factory=Homogeneous)
    search: Search | None = None
    loggers: Sequence[Logger] = ()
    schedule: Schedule | None = None
    max_steps: int | None = None
    patience: int | None = None
    log_every: int = 10
    test: Encoded | None = None
    weights: Weights | None = None
    checkpoints: CheckpointManager | None = None
    every_minutes: float = math.inf
    signals: Signals = field(default_factory=Signals)
    progress: Progress = field(default_factory=Progress, init=False)
    clock: Clock = field(init=False)
    _saved: float = field(default=0.0, init=False)
    _pending: list[Tensor] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.device = self.engine.adapters.model.device
        self.clock = Clock(self.device)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in a pass over the training split."""
        return self.train.batches(self.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps in all, unless patience ends before."""
        steps = self.epochs * self.steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    @property
    def done(self) -> bool:
        """Whether the last step has been made, or patience is at its end."""
        best, last = self.progress.best, self.progress.last
        if self.patience is not None and best is not None and last is not None:
            waited: int = last["epoch"] - best["epoch"]
            if waited >= self.patience:
                return True
        return self.progress.step >= self.total_steps

    @cached_property
    def searches(self) -> list[int]:
        """The step of each search, if patience does not end the training before."""
        length, total = self.steps_per_epoch, self.total_steps
        steps = (
            epoch * length + step
            for epoch in range(-(-total // length))
            for step in self.strategy.search_steps(epoch, length, total)
        )
        return [step for step in steps if step < total]

    def fit(self) -> Progress:
        """Train for all epochs, or for what is left of them after `load_state_dict`.

        Returns:
            What was reached, with the rows of the best and the last epoch.

        Raises:
            TrainingError: at the first step whose loss is not finite.
            RecordError: if there is no room for what has to be kept.
        """
        return drive(self.steps())

    def steps(self) -> "Steps[Progress]":
        """`fit`, but for the optimizer steps: each is yielded, and its loss is to be sent back."""
        with self.signals:
            self.clock.restart()
            self._saved = time.monotonic()
            while not self.done:
                epoch = self.progress.step // self.steps_per_epoch
                yield from self._epoch(epoch)
                self._validate(epoch)
                self._save(epoch)
                self.signals.obey()
            if self.test is not None:
                self.progress.test = self._tested(self.test)
        return self.progress

    def evaluate(self) -> dict[str, float]:
        """The loss and metrics of every validation split, by prefixed name."""
        return {
            f"{prefix}{name}": value
            for prefix, split in self.validation.items()
            for name, value in self.engine.evaluate(split).items()
        }

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the training depends on. Only between two steps."""
        return {
            **{name: part.state_dict() for name, part in self._stateful().items()},
            "progress": asdict(self.progress),
            "seconds": dict(self.clock.seconds),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Be where `state_dict` was; `fit` goes on from there."""
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])
        self.progress = Progress(**state["progress"])
        self.clock.seconds.update(state["seconds"])

    def _stateful(self) -> dict[str, Stateful]:
        """What has state, of the parts."""
        parts = {"engine": self.engine, "search": self.search, "strategy": self.strategy}
        return stateful(parts)

    def _save(self, epoch: int) -> None:
        self._read_losses(epoch)
        self.clock.lap("training")
        if self.checkpoints is not None:
            self.checkpoints.save(self.progress.step)
        self._saved = time.monotonic()

    def _pause(self, epoch: int) -> None:
        """Between two steps: save if it is time or a signal has come, which then has its way."""
        due = time.monotonic() - self._saved >= 60 * self.every_minutes
        if self.signals.waiting or due:  # in this order: some signals are asked for by others too
            self._save(epoch)
            self.signals.obey()

    def _epoch(self, epoch: int) -> "Steps[None]":
        """The rest of a pass over the training split."""
        searches = self.strategy.search_steps(epoch, self.steps_per_epoch, self.total_steps)
        done = self.progress.step - epoch * self.steps_per_epoch
        batches = self.train.shuffled(self.batch_size, self.seed, epoch, skip=done)
        for step, batch in enumerate(batches, start=done):
            self._pause(epoch)
            if step in searches:
                self._search(epoch)
            if self.schedule is not None:
                self.engine.scale_learning_rate(self.schedule(self.progress.step))
            self._pending.append((yield Step(self, batch)))
            self.progress.step += 1
            last = step + 1 == self.steps_per_epoch or self.progress.step == self.total_steps
            if self.progress.step % self.log_every == 0 or last:
                self._log(epoch)
            if last:
                break
        self.clock.lap("training")

    def training_step(self, batch: Batch) -> Tensor:
        """One optimizer step; its mean loss, left on the device."""
        return self.engine.step(batch)

    def _log(self, epoch: int) -> None:
        """Log the losses since the last time."""
        self._read_losses(epoch)
        losses = self.progress.losses[self.progress.logged :]
        self.progress.logged += len(losses)
        mean = sum(losses) / len(losses)
        row = {"step": self.progress.step, "epoch": epoch + 1, "loss": mean}
        self._tell(lambda logger: logger.log_step(row))

    @property
    def _epochs(self) -> int:
        """How many there are, the last perhaps not whole."""
        return math.ceil(self.total_steps / self.steps_per_epoch)

    def _begin(self, activity: str, number: int, of: int) -> None:
        """Say what is about to be done, to who wants to show it."""
        tell_watchers(self.loggers, activity, number, of)

    def _tell(self, what: Callable[[Logger], None]) -> None:
        for logger in self.loggers:
            what(logger)

    def _read_losses(self, epoch: int) -> None:
        """Note the pending losses, read in one transfer, each of them finite."""
        losses: list[float] = torch.stack(self._pending).tolist() if self._pending else []
        self._pending.clear()
        first = self.progress.step - len(losses) + 1
        for step, loss in enumerate(losses, start=first):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the training loss is {loss} at step {step} (epoch {epoch + 1}); {STAY_FINITE}"
                )
        self.progress.losses += losses

    def _search(self, epoch: int) -> None:
        if self.search is None:
            raise TypeError(f"the strategy {self.strategy.name} needs a search")
        self._read_losses(epoch)  # a broken model is the loop's to report, by its step
        self.clock.lap("training")
        number = bisect_right(self.searches, self.progress.step)
        self._begin("searching", number, len(self.searches))
        done = self.progress.step / self.total_steps
        made = self.search(self.strategy.share(done))
        seconds = self.clock.lap("searching")
        row = {"step": self.progress.step, "epoch": epoch + 1, **made, "seconds": seconds}
        self._tell(lambda logger: logger.log_search(row))
        self._begin("training", epoch + 1, self._epochs)

    def _validate(self, epoch: int) -> None:
        """Evaluate after an epoch, and keep the weights if they are the best."""
        losses = self.progress.losses
        self._begin("evaluating", epoch + 1, self._epochs)
        measured = self.evaluate()
        if not math.isfinite(measured["loss"]):
            raise TrainingError(
                f"the validation loss is {measured['loss']} after step {self.progress.step} "
                f"(epoch {epoch + 1}); {STAY_FINITE}"
            )
        row = {
            "step": self.progress.step,
            "epoch": epoch + 1,
            "train_loss": sum(losses) / len(losses),
            "validation_loss": measured.pop("loss"),
            **measured,
        }
        self.progress.losses, self.progress.logged = [], 0
        best = self._is_best(row)
        self.progress.last = row
        if best:
            self.progress.best = row
        if self.weights is not None:
            for name in ("best", "last") if best else ("last",):
                self.weights.save(name, epoch + 1)
        self.clock.lap("evaluating")
        self._begin("training", epoch + 1, self._epochs)
        self._tell(lambda logger: logger.log_epoch(row))

    def _tested(self, split: Encoded) -> dict[str, Any]:
        """The loss and metrics of the best epoch's weights; those of the last are then put back."""
        if self.weights is None:
            raise TypeError(
                "a test split needs weights: without them none are kept of the best epoch"
            )
        assert self.progress.best is not None
        self.weights.load("best")
        try:
            measured = self.engine.evaluate(split)
        finally:
            self.weights.load("last")
        self.clock.lap("evaluating")
        return {"epoch": self.progress.best["epoch"], **measured}

    def _is_best(self, row: Mapping[str, float]) -> bool:
        """Whether an epoch is better than all before it."""
        if self.progress.best is None:
            return True
        new: float = row[self.metric]
        old: float = self.progress.best[self.metric]
        return new > old if self.higher_is_better else new < old


@dataclass(frozen=True)
class Step:
    """An optimizer step that a training is about to make."""

    trainer: Trainer
    batch: Batch

    def make(self) -> Tensor:
        """Make it; its mean loss, left on the device."""
        return self.trainer.training_step(self.batch)


Steps = Generator[Step, Tensor, Result]
"""What yields optimizer steps, is sent the loss of each, and returns a result."""


def drive(steps: "Steps[Result]") -> Result:
    """Make every step that `steps` yields; returns its result.

    What a step raises is raised at its yield.
    """
    try:
        step = next(steps)
        while True:
            try:
                loss = step.make()
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(loss)
    except StopIteration as end:
        result: Result = end.value
        return result
