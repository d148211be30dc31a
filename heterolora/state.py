"""Objects whose state a checkpoint keeps."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Stateful(Protocol):
    """An object whose state changes from step to step.

    A state is a mapping with string keys, whose values are tensors, JSON values, or such mappings.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return the current state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""


def stateful(parts: Mapping[str, object]) -> dict[str, Stateful]:
    """Return those of `parts` that have state."""
    return {name: part for name, part in parts.items() if isinstance(part, Stateful)}
