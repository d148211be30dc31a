"""The engine for one run in one process."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from heterolora.adapters import Adapters
from heterolora.kernels.dropout import Dropout, has_dropout, recomputes
from heterolora.kernels.unpadding import without_padding
from heterolora.losses import Autocast, Batch, inputs
from heterolora.seeding import Stream
from heterolora.tasks import Task
from heterolora.tasks.encoded import Encoded
from heterolora.training.evaluation import evaluate


class LocalEngine:
    """Trains and evaluates one model in this process.

    Args:
        adapters: the adapters of the model; their seed also seeds the dropout stream.
        task: provides the loss and the metrics.
        optimizer: optimizes `adapters.named_tensors()`, in that order; see `adamw`.
        autocast: makes the context that sets the precision of forward passes.
        evaluation_batch_size: examples per batch during evaluation.
        observers: make the context managers entered around the forward and backward pass of each
            step.
        micro_batch_size: maximum number of examples per forward pass; larger steps accumulate
            gradients.
        max_grad_norm: clip the gradients of a step, taken together, to this L2 norm.
        forward: runs the forward pass of a step on the model's inputs; by default `eager`.
            Observers may not be able to see into any other.

    Attributes:
        adapters: as given.
        task: as given.
        optimizer: as given.
        autocast: as given.
        observers: as given.
        dropout: the random stream of dropout.

    Raises:
        ValueError: if observers are combined with a forward pass other than `eager`.
    """

    def __init__(
        self,
        adapters: Adapters,
        task: Task,
        optimizer: torch.optim.Optimizer,
        autocast: Autocast = nullcontext,
        evaluation_batch_size: int = 64,
        observers: Sequence[Callable[[Adapters], AbstractContextManager[object]]] = (),
        forward: Callable[..., Any] | None = None,
        micro_batch_size: int | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        if observers and forward is not None:
            raise ValueError(
                "observers need the default forward pass: leave out forward, or the observers"
            )
        self.adapters = adapters
        self.optimizer = optimizer
        self.task = task
        self.autocast = autocast
        self.dropout = Stream(adapters.seed, "dropout", device=adapters.model.device)
        self._evaluation_batch_size = evaluation_batch_size
        self.observers = observers
        self._micro_batch_size = micro_batch_size
        self._max_grad_norm = max_grad_norm
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self._forward = forward or eager(adapters.model)

    def step(self, batch: Batch) -> Tensor:
        """Make an optimizer step on the mean loss of `batch`; return it, left on the device."""
        loss = self.descend(batch)
        self.update()
        return loss

    def descend(self, batch: Batch) -> Tensor:
        """Compute the gradients of the mean loss of `batch`; return it, left on the device."""
        self.adapters.model.train()
        # Before the forward pass: its CUDA graph may reuse the memory of the last step's gradients.
        self.optimizer.zero_grad(set_to_none=True)
        with ExitStack() as observing:
            for observe in self.observers:
                observing.enter_context(observe(self.adapters))
            losses = [self._descended(part, batch) for part in self.parts(batch)]
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def _descended(self, part: Batch, whole: Batch) -> Tensor:
        """Accumulate the gradients of a part's share of the whole's mean loss; return the share."""
        with self.dropout:
            total, count = self._total(part)
        loss = total / (count if part is whole else self.task.count(whole))
        torch.autograd.backward(loss)
        return loss.detach()

    def _total(self, part: Batch) -> tuple[Tensor, Tensor | int]:
        """Return the sum of the losses of a part, and their number."""
        with self.autocast():
            output = self._forward(**inputs(part))
        return self.task.loss(output, part)

    def parts(self, batch: Batch) -> list[Batch]:
        """Split a batch into parts of `micro_batch_size`; return it whole if it is no larger."""
        size = self._micro_batch_size
        rows = len(batch["input_ids"])
        if size is None or rows <= size:
            return [batch]
        return [
            {name: tensor[start : start + size] for name, tensor in batch.items()}
            for start in range(0, rows, size)
        ]

    def update(self) -> None:
        """Make an optimizer step with the current gradients."""
        if self._max_grad_norm is not None:
            trained = [p for p in self.adapters.named_tensors().values() if p.grad is not None]
            nn.utils.clip_grad_norm_(trained, self._max_grad_norm)
        self.optimizer.step()

    def scale_learning_rate(self, factor: float) -> None:
        """Make the next steps at `factor` times the optimizer's initial learning rate."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = factor * rate

    def evaluate(self, split: Encoded) -> dict[str, float]:
        """Return the mean loss (`loss`) and the task's metrics over `split`, with dropout off."""
        return evaluate(
            self.adapters.model, self.task, split, self._evaluation_batch_size, self.autocast
        )

    def state_dict(self) -> dict[str, Any]:
        """Return ranks and weights, the optimizer's moments by weight name, and dropout."""
        names = list(self.adapters.named_tensors())
        state = self.optimizer.state_dict()["state"]
        return {
            "adapters": self.adapters.state_dict(),
            "optimizer": {names[index]: moments for index, moments in state.items()},
            "dropout": self.dropout.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the learning rate and its like stay as they are."""
        self.adapters.load_state_dict(state["adapters"])
        indices = {name: index for index, name in enumerate(self.adapters.named_tensors())}
        moments = {indices[name]: values for name, values in state["optimizer"].items()}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.dropout.load_state_dict(state["dropout"])


def eager(model: Any) -> Callable[..., Any]:
    """Return a callable that runs `model`, skipping padding and with faster dropout on the CPU."""
    fast_dropout = has_dropout(model)
    # Found once, not in every step: few of a model's many modules have it.
    may_recompute = [m for m in model.modules() if hasattr(m, "gradient_checkpointing")]

    def forward(**inputs: Any) -> Any:
        if recomputes(may_recompute):
            return model(**inputs)  # what the backward pass recomputes has to be the same
        fast = fast_dropout and model.device.type == "cpu"
        with Dropout() if fast else nullcontext(), without_padding():
            return model(**inputs)

    return forward
