"""The fine-tuning loop."""

import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from heterolora.adapters import Inventory
from heterolora.config import TrainingConfig
from heterolora.data.batching import Encoded
from heterolora.data.tasks import Loss
from heterolora.errors import TrainingError
from heterolora.seeding import global_stream
from heterolora.tracking.sinks import Sink
from heterolora.training import checkpoint, state
from heterolora.training.clock import Clock
from heterolora.training.precision import Autocast
from heterolora.training.signals import Signals
from heterolora.training.snapshots import Snapshot


class Schedule(Protocol):
    """When to search; a strategy."""

    def search_steps(self, epoch: int, steps_per_epoch: int) -> range:
        """The steps of `epoch` (both from 0) before which a search is made."""


Reallocate = Callable[[], dict[str, Any]]
"""Makes a search; returns what there is to record of it."""

Keep = Callable[[int, state.Tensors, state.Row], None]
"""Keeps what a training needs to go on from a step; given the step, tensors and JSON values."""


@dataclass
class Progress:
    """What a training has reached.

    Attributes:
        primary: the metric by which the best epoch is chosen, the higher the better.
        step: optimizer steps made.
        best: the row of the first epoch with the highest primary metric.
        last: the row of the last epoch.
        losses: of the epoch's steps so far.
        logged: how many of `losses` are in the log.
    """

    primary: str
    step: int = 0
    best: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    losses: list[float] = field(default_factory=list)
    logged: int = 0

    def take(self, row: dict[str, Any]) -> bool:
        """Note an epoch's row; whether it is the best so far."""
        self.last = row
        if self.best is None or row[self.primary] > self.best[self.primary]:
            self.best = row
            return True
        return False


@dataclass
class Training:
    """Everything that one fine-tuning needs. `run` it once.

    Attributes:
        inventory: the wired model.
        examples: the training split.
        loss: the sum of a batch's losses; a step descends its mean.
        optimizer: over adapters and head.
        schedule: when to search.
        reallocate: makes a search, or None under a schedule without any.
        evaluate: the validation loss (`loss`) and metrics.
        sink: told of everything.
        clock: told where the time goes.
        weights: the folder for `best.safetensors` and `last.safetensors`.
        selection: the generator that breaks the ties of searches.
        keep: keeps the state, at every epoch's end, after `every_minutes`, and for signals.
        resumed: the state to go on from, or None to begin.
    """

    inventory: Inventory
    examples: Encoded
    loss: Loss
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    reallocate: Reallocate | None
    evaluate: Callable[[], dict[str, float]]
    autocast: Autocast
    config: TrainingConfig
    seed: int
    sink: Sink
    clock: Clock
    weights: Path
    progress: Progress
    selection: random.Random
    keep: Keep
    every_minutes: float
    resumed: Snapshot | None = None
    _signals: Signals = field(default_factory=Signals)
    _kept: float = 0.0
    _pending: list[Tensor] = field(default_factory=list)

    def run(self) -> None:
        """Train for all epochs, or for what is left of them.

        Raises:
            TrainingError: at the first step whose loss is not finite.
            RecordError: if there is no room for what has to be kept.
        """
        # Dropout draws from torch's global generators, so the whole loop runs on its stream.
        with global_stream(self.seed, "dropout"), self._signals:
            if self.resumed is not None:
                self._take_up(self.resumed)
            self.clock.restart()
            self._kept = time.monotonic()
            begun = self.progress.step // self.examples.batches(self.config.batch_size)
            for epoch in range(begun, self.config.epochs):
                self._train(epoch)
                self._validate(epoch)
                self._save(epoch)
                self._signals.obey()

    def _take_up(self, snapshot: Snapshot) -> None:
        """Be where `_save` was."""
        row = snapshot.row
        self.progress = Progress(**row["progress"])
        self.clock.seconds.update(row["seconds"])
        state.put_back(snapshot.tensors, row, self.inventory, self.optimizer, self.selection)

    def _save(self, epoch: int) -> None:
        """Keep all that the rest of the training depends on. Only between two steps."""
        self._read_losses(epoch)
        self.clock.lap("training")
        tensors, row = state.capture(self.inventory, self.optimizer, self.selection)
        row |= {"progress": asdict(self.progress), "seconds": self.clock.seconds}
        self.keep(self.progress.step, tensors, row)
        self._kept = time.monotonic()

    def _pause(self, epoch: int) -> None:
        """Between two steps: save if it is time or a signal has come, which then has its way."""
        due = time.monotonic() - self._kept >= 60 * self.every_minutes
        if due or self._signals.waiting:
            self._save(epoch)
            self._signals.obey()

    def _train(self, epoch: int) -> None:
        """The rest of a pass over the training split."""
        steps = self.examples.batches(self.config.batch_size)
        searches = self.schedule.search_steps(epoch, steps)
        done = self.progress.step - epoch * steps
        batches = self.examples.shuffled(self.config.batch_size, self.seed, epoch, skip=done)
        for step, batch in enumerate(batches, start=done):
            self._pause(epoch)
            if step in searches:
                self._search(epoch)
            self._pending.append(self._descend(batch))
            self.progress.step += 1
            if self.progress.step % self.config.log_every == 0 or step + 1 == steps:
                self._log(epoch)
        self.clock.lap("training")

    def _descend(self, batch: dict[str, Tensor]) -> Tensor:
        """One optimizer step; its loss, left on the device."""
        self.inventory.model.train()
        labels = batch.pop("labels")
        with self.autocast():
            logits = self.inventory.model(**batch).logits
        loss = self.loss(logits, labels) / len(labels)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return loss.detach()

    def _log(self, epoch: int) -> None:
        """Tell the sink of the losses since the last time."""
        self._read_losses(epoch)
        losses = self.progress.losses[self.progress.logged :]
        self.progress.logged += len(losses)
        mean = sum(losses) / len(losses)
        self.sink.step({"step": self.progress.step, "epoch": epoch + 1, "loss": mean})

    def _read_losses(self, epoch: int) -> None:
        """Note the pending losses, read in one transfer, each of them finite."""
        losses: list[float] = torch.stack(self._pending).tolist() if self._pending else []
        self._pending.clear()
        first = self.progress.step - len(losses) + 1
        for step, loss in enumerate(losses, start=first):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the training loss is {loss} at step {step} (epoch {epoch + 1}); lower "
                    f"optimizer.learning_rate, or set precision=fp32"
                )
        self.progress.losses += losses

    def _search(self, epoch: int) -> None:
        assert self.reallocate is not None
        self._read_losses(epoch)  # a broken model is the loop's to report, by its step
        self.clock.lap("training")
        made = self.reallocate()
        seconds = self.clock.lap("searching")
        row = {"step": self.progress.step, "epoch": epoch + 1, **made, "seconds": seconds}
        self.sink.search(row)

    def _validate(self, epoch: int) -> None:
        """Evaluate after an epoch, and keep the weights if they are the best."""
        losses = self.progress.losses
        measured = self.evaluate()
        if not math.isfinite(measured["loss"]):
            raise TrainingError(
                f"the validation loss is {measured['loss']} after step {self.progress.step} "
                f"(epoch {epoch + 1}); lower optimizer.learning_rate, or set precision=fp32"
            )
        row = {
            "step": self.progress.step,
            "epoch": epoch + 1,
            "train_loss": sum(losses) / len(losses),
            "validation_loss": measured.pop("loss"),
            **measured,
        }
        self.progress.losses, self.progress.logged = [], 0
        is_best = self.progress.take(row)
        for name in ("best", "last") if is_best else ("last",):
            checkpoint.save(self.weights / f"{name}.safetensors", self.inventory, epoch + 1)
        self.clock.lap("evaluating")
        self.sink.epoch(row)
