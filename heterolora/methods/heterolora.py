"""Low-rank adapters whose ranks a strategy may allocate (https://arxiv.org/abs/2406.14956)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from heterolora.methods.base import Given, Method

if TYPE_CHECKING:
    from heterolora.adapters import Adapters


@dataclass(frozen=True)
class HeteroLoRA(Method):
    """This project's method: a site for every role of the search space in every layer."""

    allocates: ClassVar[bool] = True

    def apply(self, given: Given) -> Adapters:
        """Wire the model; the budget applies to searches."""
        from heterolora.architectures import wire

        loaded = given.loaded
        return wire(loaded.model, loaded.family, given.space, loaded.head, given.seed)
