"""The interface between a trainer and its engine."""

from typing import Any, Protocol

from torch import Tensor

from heterolora.adapters import Adapters
from heterolora.losses import Batch
from heterolora.tasks.encoded import Encoded


class Engine(Protocol):
    """Makes optimizer steps on the named tensors of a model's adapters, and evaluates the model.

    Attributes:
        adapters: the adapters of the trained model.
    """

    adapters: Adapters

    def step(self, batch: Batch) -> Tensor:
        """Make one optimizer step and return its mean loss, left on the device."""

    def scale_learning_rate(self, factor: float) -> None:
        """Make the next steps at `factor` times the configured learning rate."""

    def evaluate(self, split: Encoded) -> dict[str, float]:
        """Return the mean loss (`loss`) and the metrics over a split, with dropout off."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that steps change: weights, ranks, and optimizer moments."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
