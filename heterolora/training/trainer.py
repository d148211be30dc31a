"""The fine-tuning loop."""

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from heterolora.errors import STAY_FINITE, TrainingError
from heterolora.losses import Batch
from heterolora.settings import Stateful, stateful
from heterolora.strategies import Search, Strategy
from heterolora.strategies.homogeneous import Homogeneous
from heterolora.tasks.encoded import Encoded
from heterolora.training.checkpoint import CheckpointManager
from heterolora.training.clock import Clock
from heterolora.training.engines import Engine
from heterolora.training.logging import Logger, tell_watchers
from heterolora.training.schedule import Schedule
from heterolora.training.weights import Weights


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        step: optimizer steps made so far.
        best: the row of the first epoch with the best metric.
        last: the row of the last epoch.
        losses: the losses of the current epoch's steps so far.
        logged: how many of `losses` have been logged.
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
    """Fine-tunes adapters and head, searching whenever the strategy asks for it.

    `fit` is the loop

        for batch in trainer.batches():
            trainer.record(trainer.engine.step(batch))

    which may also be written out, for example to make the steps of several trainings together.

    Attributes:
        engine: makes the optimizer steps.
        train: the training split.
        validation: the splits evaluated after each epoch, by the prefix of their metrics; the one
            without a prefix chooses the best epoch.
        test: the split on which the best epoch's weights are evaluated once, at the end; needs
            `weights`.
        epochs: passes over the training split.
        batch_size: examples per step.
        seed: seeds the order of the examples.
        metric: the metric that chooses the best epoch.
        higher_is_better: whether a higher metric is better.
        strategy: decides when to search.
        search: makes a search; needed by a strategy that asks for any.
        loggers: follow the training.
        schedule: the factor on the learning rate at each step; constant if None.
        max_steps: end the training after so many steps, even in the middle of an epoch.
        patience: end the training after so many epochs without improvement.
        log_every: steps between two rows of losses.
        weights: saves the best and the last weights.
        checkpoints: saves the state at every epoch's end and after `every_minutes`.
        every_minutes: minutes between two checkpoints.
        pause: called before each step and at every epoch's end, with a function that saves the
            state; whatever it raises stops the training there.
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
    pause: Callable[[Callable[[], None]], object] | None = None
    progress: Progress = field(default_factory=Progress, init=False)
    clock: Clock = field(init=False)
    _saved: float = field(default=0.0, init=False)
    _pending: list[Tensor] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.device = self.engine.adapters.model.device
        self.clock = Clock(self.device)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per pass over the training split."""
        return self.train.batches(self.batch_size)

    @property
    def total_steps(self) -> int:
        """Total number of optimizer steps, unless patience ends the training earlier."""
        steps = self.epochs * self.steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    @property
    def done(self) -> bool:
        """Whether the last step has been made, or patience has run out."""
        best, last = self.progress.best, self.progress.last
        if self.patience is not None and best is not None and last is not None:
            waited: int = last["epoch"] - best["epoch"]
            if waited >= self.patience:
                return True
        return self.progress.step >= self.total_steps

    @cached_property
    def searches(self) -> list[int]:
        """The step of each search, unless patience ends the training earlier."""
        length, total = self.steps_per_epoch, self.total_steps
        steps = (
            epoch * length + step
            for epoch in range(-(-total // length))
            for step in self.strategy.search_steps(epoch, length, total)
        )
        return [step for step in steps if step < total]

    def fit(self) -> Progress:
        """Train for all epochs, or for the rest of them after `load_state_dict`.

        Returns:
            The progress, with the rows of the best and the last epoch.

        Raises:
            TrainingError: at the first step whose loss is not finite.
            RecordError: if something cannot be saved, for example on a full disk.
        """
        for batch in self.batches():
            self.record(self.engine.step(batch))
        return self.progress

    def batches(self) -> Iterator[Batch]:
        """Yield the batch of each remaining step, whose loss `record` needs before the next one.

        Between two batches come the searches, evaluations and checkpoints that are due, and after
        the last one the evaluation on the test split.

        Raises:
            TrainingError: as for `fit`.
            RecordError: as for `fit`.
        """
        self.clock.restart()
        self._saved = time.monotonic()
        while not self.done:
            epoch = self.progress.step // self.steps_per_epoch
            yield from self._epoch(epoch)
            self._validate(epoch)
            self._save(epoch)
            self._pause(epoch)
        if self.test is not None:
            self.progress.test = self._tested(self.test)

    def record(self, loss: Tensor) -> None:
        """Count a step that has been made.

        Args:
            loss: the mean loss of the step, left on the device.
        """
        epoch = self.progress.step // self.steps_per_epoch
        self._pending.append(loss)
        self.progress.step += 1
        last = self.progress.step in ((epoch + 1) * self.steps_per_epoch, self.total_steps)
        if self.progress.step % self.log_every == 0 or last:
            self._log(epoch)

    def evaluate(self) -> dict[str, float]:
        """Return the loss and metrics of every validation split, by prefixed name."""
        return {
            f"{prefix}{name}": value
            for prefix, split in self.validation.items()
            for name, value in self.engine.evaluate(split).items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rest of the training depends on. Call it only between two steps."""
        return {
            **{name: part.state_dict() for name, part in self._stateful().items()},
            "progress": asdict(self.progress),
            "seconds": dict(self.clock.seconds),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; `fit` resumes from there."""
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])
        self.progress = Progress(**state["progress"])
        self.clock.seconds.update(state["seconds"])

    def _stateful(self) -> dict[str, Stateful]:
        """The parts that have state, by name."""
        parts = {"engine": self.engine, "search": self.search, "strategy": self.strategy}
        return stateful(parts)

    def _save(self, epoch: int) -> None:
        self._read_losses(epoch)
        self.clock.lap("training")
        if self.checkpoints is not None:
            self.checkpoints.save(self.progress.step)
        self._saved = time.monotonic()

    def _pause(self, epoch: int) -> None:
        """Between two steps, save if it is time, and do what `pause` says."""
        if time.monotonic() - self._saved >= 60 * self.every_minutes:
            self._save(epoch)
        if self.pause is not None:
            self.pause(lambda: self._save(epoch))

    def _epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the remaining batches of a pass over the training split."""
        searches = self.strategy.search_steps(epoch, self.steps_per_epoch, self.total_steps)
        done = self.progress.step - epoch * self.steps_per_epoch
        batches = self.train.shuffled(self.batch_size, self.seed, epoch, skip=done)
        for step, batch in enumerate(batches, start=done):
            self._pause(epoch)
            if step in searches:
                self._search(epoch)
            if self.schedule is not None:
                self.engine.scale_learning_rate(self.schedule(self.progress.step))
            yield batch
            if self.progress.step == self.total_steps:
                break
        self.clock.lap("training")

    def _log(self, epoch: int) -> None:
        """Log the mean of the losses since the last log."""
        self._read_losses(epoch)
        losses = self.progress.losses[self.progress.logged :]
        self.progress.logged += len(losses)
        mean = sum(losses) / len(losses)
        row = {"step": self.progress.step, "epoch": epoch + 1, "loss": mean}
        self._tell(lambda logger: logger.log_step(row))

    @property
    def _epochs(self) -> int:
        """The number of epochs, the last of which may be incomplete."""
        return math.ceil(self.total_steps / self.steps_per_epoch)

    def _begin(self, activity: str, number: int, of: int) -> None:
        """Tell the watchers which activity is about to begin."""
        tell_watchers(self.loggers, activity, number, of)

    def _tell(self, what: Callable[[Logger], None]) -> None:
        for logger in self.loggers:
            what(logger)

    def _read_losses(self, epoch: int) -> None:
        """Read the pending losses in one transfer, and check that they are finite."""
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
        self._read_losses(epoch)  # so that a diverged model is reported by its step
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
        """Evaluate after an epoch, and save the weights, also as the best if they are."""
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
        """Evaluate the best epoch's weights, then restore those of the last epoch."""
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
        """Whether this epoch is better than all before it."""
        if self.progress.best is None:
            return True
        new: float = row[self.metric]
        old: float = self.progress.best[self.metric]
        return new > old if self.higher_is_better else new < old
