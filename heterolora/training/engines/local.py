"""One process, one run."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from heterolora.adapters import Adapters
from heterolora.architectures import FAMILIES
from heterolora.dropout import Dropout, has_dropout, recomputes
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
        observers: make what is entered around the forward and backward pass of each step.
        micro_batch_size: the most examples in a forward pass; a step of more adds up gradients.
        max_grad_norm: the L2 norm to which the gradients of a step, taken together, are clipped.
        forward: makes the forward pass of a step from the model's inputs; by default `eager`. Into
            any other, observers may not see.

    Attributes:
        adapters: as given.
        task: as given.
        optimizer: as given.
        autocast: as given.
        observers: as given.
        dropout: the stream.

    Raises:
        ValueError: for observers of another forward pass than `eager`.
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
        # Looked for once: a model has few among its many modules, and steps are many.
        modules = adapters.model.modules()
        self._may_recompute = [m for m in modules if hasattr(m, "gradient_checkpointing")]
        self._is_of_one_run = not shareable(adapters)
        self._forward = forward or eager(adapters.model)

    def step(self, batch: Batch) -> Tensor:
        """One optimizer step down the mean loss of `batch`; the loss, left on the device."""
        loss = self.descend(batch)
        self.update()
        return loss

    def descend(self, batch: Batch) -> Tensor:
        """Leave the gradients of the mean loss of `batch`; the loss, left on the device."""
        self.adapters.model.train()
        # Before the forward pass: its CUDA graph may take the place of the last step's gradients.
        self.optimizer.zero_grad(set_to_none=True)
        with ExitStack() as observing:
            for observe in self.observers:
                observing.enter_context(observe(self.adapters))
            losses = [self._descended(part, batch) for part in self._parts(batch)]
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    def _descended(self, part: Batch, whole: Batch) -> Tensor:
        """Add up the gradients of a part's share of the mean loss of the whole; the share."""
        with self.dropout:
            total, count = self._total(part)
        loss = total / (count if part is whole else self.task.count(whole))
        torch.autograd.backward(loss)
        return loss.detach()

    def _total(self, part: Batch) -> tuple[Tensor, Tensor | int]:
        """The sum of the losses of a part, and how many they are."""
        with self.autocast():
            output = self._forward(**inputs(part))
        return self.task.loss(output, part)

    def _parts(self, batch: Batch) -> list[Batch]:
        """A batch in parts of `micro_batch_size`; the batch itself where it has no more."""
        size = self._micro_batch_size
        rows = len(batch["input_ids"])
        if size is None or rows <= size:
            return [batch]
        return [
            {name: tensor[start : start + size] for name, tensor in batch.items()}
            for start in range(0, rows, size)
        ]

    def alone(self, batch: Batch) -> bool:
        """Whether a step cannot be made in one pass for many runs.

        One that is observed has no pass of its own there; a model without adapters trains what
        such a pass would share; nor are parts of a step, or what is computed again, in it; nor
        what is not `shareable`.
        """
        return bool(
            self.observers
            or not self.adapters.sites
            or self._is_of_one_run
            or len(self._parts(batch)) > 1
            or recomputes(self._may_recompute)
        )

    def update(self) -> None:
        """Let the optimizer step, with the gradients that there are."""
        if self._max_grad_norm is not None:
            trained = [p for p in self.adapters.named_tensors().values() if p.grad is not None]
            nn.utils.clip_grad_norm_(trained, self._max_grad_norm)
        self.optimizer.step()

    def scale_learning_rate(self, factor: float) -> None:
        """Have the next steps made at `factor` times the learning rate of the optimizer."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = factor * rate

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


def eager(model: Any) -> Callable[..., Any]:
    """Calls of a model as it is, but for padding and the faster dropout on the CPU."""
    fast_dropout = has_dropout(model)
    # Looked for once: a model has few among its many modules, and steps are many.
    may_recompute = [m for m in model.modules() if hasattr(m, "gradient_checkpointing")]

    def forward(**inputs: Any) -> Any:
        if recomputes(may_recompute):
            return model(**inputs)  # what its backward pass computes again has to be the same
        fast = fast_dropout and model.device.type == "cpu"
        with Dropout() if fast else nullcontext(), without_padding():
            return model(**inputs)

    return forward


def shareable(adapters: Adapters) -> bool:
    """Whether a pass can be of many runs that train what these train.

    Their heads are to be linear layers, and their projections to map the tokens of each run alone;
    quantized layers keep a state that copies of a model do not share.
    """
    model = adapters.model
    if getattr(model, "is_quantized", False):
        return False
    heads = {name.rpartition(".")[0] for name in adapters.head}
    family = FAMILIES.get(model.config.model_type)
    return all(isinstance(model.get_submodule(name), nn.Linear) for name in heads) and not (
        family and family.beside_tokens
    )
