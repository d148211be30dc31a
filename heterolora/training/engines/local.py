"""One process, one run."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from heterolora.adapters import Adapters
from heterolora.dropout import Dropout, has_dropout
from heterolora.losses import Autocast, Batch, inputs
from heterolora.seeding import Stream
from heterolora.tasks import Task
from heterolora.tasks.encoded import Encoded
from heterolora.training.evaluation import evaluate
from heterolora.unpadding import without_padding


class LocalEngine:
    """Steps and evaluations of one model in this process.

    Args:
        adapters: of the model; dropout is drawn from a stream of their seed.
        task: its loss and metrics.
        optimizer: over `adapters.named_tensors()`, in their order; see `adamw`.
        autocast: the precision of forward passes.
        evaluation_batch_size: examples in a batch of an evaluation.
        observers: called after each backward pass, while gradients stand.

    Attributes:
        adapters: as given.
        task: as given.
        optimizer: as given.
        autocast: as given.
        dropout: the stream.
    """

    def __init__(
        self,
        adapters: Adapters,
        task: Task,
        optimizer: torch.optim.Optimizer,
        autocast: Autocast = nullcontext,
        evaluation_batch_size: int = 64,
        observers: Sequence[Callable[[Adapters], None]] = (),
    ) -> None:
        self.adapters = adapters
        self.optimizer = optimizer
        self.task = task
        self.autocast = autocast
        self.dropout = Stream(adapters.seed, "dropout", device=adapters.model.device)
        self._evaluation_batch_size = evaluation_batch_size
        self._observers = observers

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step down the mean loss of `batch`; the loss, left on the device."""
        model = self.adapters.model.train()
        with self.dropout, dropout(model), self.autocast(), without_padding():
            output = model(**inputs(batch))
        total, count = self.task.loss(output, batch)
        loss = total / count
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.descend()
        return loss.detach()

    def descend(self) -> None:
        """One optimizer step down the gradients that stand."""
        for observe in self._observers:
            observe(self.adapters)
        self.optimizer.step()

    def evaluate(self, split: Encoded) -> dict[str, float]:
        """The mean loss (`loss`) and the task's metrics over `split`, dropout off."""
        return evaluate(
            self.adapters.model, self.task, split, self._evaluation_batch_size, self.autocast
        )

    def state_dict(self) -> dict[str, Any]:
        """Ranks and weights, the optimizer's moments by the names of their weights, dropout."""
        names = list(self.adapters.named_tensors())
        state = self.optimizer.state_dict()["state"]
        return {
            "adapters": self.adapters.state_dict(),
            "optimizer": {names[index]: moments for index, moments in state.items()},
            "dropout": self.dropout.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; learning rate and its like stay as they are here."""
        self.adapters.load_state_dict(state["adapters"])
        indices = {name: index for index, name in enumerate(self.adapters.named_tensors())}
        moments = {indices[name]: values for name, values in state["optimizer"].items()}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.dropout.load_state_dict(state["dropout"])


def dropout(model: Any) -> AbstractContextManager[object]:
    """The faster dropout, for a model that has any on the CPU."""
    return Dropout() if model.device.type == "cpu" and has_dropout(model) else nullcontext()
