"""Full fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heterolora.errors import Problem
from heterolora.methods.base import Given, Method
from heterolora.settings import Situation

if TYPE_CHECKING:
    from heterolora.adapters import Adapters


@dataclass(frozen=True)
class Full(Method):
    """Trains every parameter of the model, whatever the budget."""

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Yield problems as for any baseline, and of parameters that are not in fp32."""
        yield from super().problems(situation)
        yield from self.own_parameters(situation)

    def apply(self, given: Given) -> Adapters:
        """Prepare the model without freezing anything."""
        from heterolora.adapters.full_parameters import Trained

        given.prepare()
        return Trained(given.model, given.without_head(), given.loaded.head, given.seed)
