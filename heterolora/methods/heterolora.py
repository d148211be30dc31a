"""Low-rank adapters whose ranks a strategy may allocate (https://arxiv.org/abs/2406.14956)."""

from dataclasses import dataclass
from typing import ClassVar

from heterolora.adapters import Adapters
from heterolora.architectures import wire
from heterolora.methods.base import Given, Method


@dataclass(frozen=True)
class HeteroLoRA(Method):
    """This project's method: a site for every role of the search space in every layer."""

    allocates: ClassVar[bool] = True

    def apply(self, given: Given) -> Adapters:
        """Wire the model; the budget applies to searches."""
        loaded = given.loaded
        return wire(loaded.model, loaded.family, given.space, loaded.head, given.seed)
