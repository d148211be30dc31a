"""The fine-tuning loop."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
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
from heterolora.training import checkpoint
from heterolora.training.clock import Clock
from heterolora.training.precision import Autocast


class Schedule(Protocol):
    """When to search; a strategy."""

    def search_steps(self, epoch: int, steps_per_epoch: int) -> range:
        """The steps of `epoch` (both from 0) before which a search is made."""


Reallocate = Callable[[], dict[str, Any]]
"""Makes a search; returns what there is to record of it."""


@dataclass
class Progress:
    """What a training has reached.

    Attributes:
        primary: the metric by which the best epoch is chosen, the higher the better.
        step: optimizer steps made.
        best: the row of the first epoch with the highest primary metric.
        last: the row of the last epoch.
    """

    primary: str
    step: int = 0
    best: dict[str, Any] | None = None
    last: dict[str, Any] | None = None

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
    _pending: list[Tensor] = field(default_factory=list)

    def run(self) -> None:
        """Train for all epochs.

        Raises:
            TrainingError: at the first step whose loss is not finite.
        """
        # Dropout draws from torch's global generators, so the whole loop runs on its stream.
        with global_stream(self.seed, "dropout"):
            self.clock.restart()
            for epoch in range(self.config.epochs):
                losses = self._train(epoch)
                self._validate(epoch, sum(losses) / len(losses))

    def _train(self, epoch: int) -> list[float]:
        """One pass over the training split; the loss of each step."""
        steps = self.examples.batches(self.config.batch_size)
        searches = self.schedule.search_steps(epoch, steps)
        batches = self.examples.shuffled(self.config.batch_size, self.seed, epoch)
        losses: list[float] = []
        for step, batch in enumerate(batches):
            if step in searches:
                self._search(epoch)
            self._pending.append(self._descend(batch))
            self.progress.step += 1
            if self.progress.step % self.config.log_every == 0 or step + 1 == steps:
                losses += self._log(epoch)
        self.clock.lap("training")
        return losses

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

    def _log(self, epoch: int) -> list[float]:
        """Tell the sink of the pending losses."""
        losses = self._finite_losses(epoch)
        self._pending.clear()
        mean = sum(losses) / len(losses)
        self.sink.step({"step": self.progress.step, "epoch": epoch + 1, "loss": mean})
        return losses

    def _finite_losses(self, epoch: int) -> list[float]:
        """The pending losses, read in one transfer, each of them finite."""
        losses: list[float] = torch.stack(self._pending).tolist() if self._pending else []
        first = self.progress.step - len(losses) + 1
        for step, loss in enumerate(losses, start=first):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the training loss is {loss} at step {step} (epoch {epoch + 1}); lower "
                    f"optimizer.learning_rate, or set precision=fp32"
                )
        return losses

    def _search(self, epoch: int) -> None:
        assert self.reallocate is not None
        self._finite_losses(epoch)  # a broken model is the loop's to report, by its step
        self.clock.lap("training")
        made = self.reallocate()
        seconds = self.clock.lap("searching")
        row = {"step": self.progress.step, "epoch": epoch + 1, **made, "seconds": seconds}
        self.sink.search(row)

    def _validate(self, epoch: int, train_loss: float) -> None:
        """Evaluate after an epoch, and keep the weights if they are the best."""
        measured = self.evaluate()
        if not math.isfinite(measured["loss"]):
            raise TrainingError(
                f"the validation loss is {measured['loss']} after step {self.progress.step} "
                f"(epoch {epoch + 1}); lower optimizer.learning_rate, or set precision=fp32"
            )
        row = {
            "step": self.progress.step,
            "epoch": epoch + 1,
            "train_loss": train_loss,
            "validation_loss": measured.pop("loss"),
            **measured,
        }
        is_best = self.progress.take(row)
        for name in ("best", "last") if is_best else ("last",):
            checkpoint.save(self.weights / f"{name}.safetensors", self.inventory, epoch + 1)
        self.clock.lap("evaluating")
        self.sink.epoch(row)
