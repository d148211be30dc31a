"""What a checkpoint keeps: whatever has state."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Stateful(Protocol):
    """Something whose state changes from step to step.

    A state is a mapping with text keys, whose values are tensors, JSON values, or such mappings.
    """

    def state_dict(self) -> dict[str, Any]:
        """The state as it stands."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


def stateful(parts: Mapping[str, object]) -> dict[str, Stateful]:
    """Those of `parts` that have state."""
    return {name: part for name, part in parts.items() if isinstance(part, Stateful)}
