"""Where each model family keeps its parts, and how adapters are put there."""

from heterolora.architectures.family import Family
from heterolora.architectures.loading import (
    FAMILIES,
    Loaded,
    fetch,
    load,
    model_is_usable,
    projections_exist,
    shortcuts_fit,
)
from heterolora.architectures.wiring import Shortcuts, wire

__all__ = [
    "FAMILIES",
    "Family",
    "Loaded",
    "Shortcuts",
    "fetch",
    "load",
    "model_is_usable",
    "projections_exist",
    "shortcuts_fit",
    "wire",
]
