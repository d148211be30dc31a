"""Where each model family keeps its parts, and how adapters are put there."""

from heterolora.architectures.adapting import adapt, load, save
from heterolora.architectures.family import (
    FAMILIES,
    Family,
    Parts,
    family_named,
    family_of,
    head_of,
    layers_of,
    register,
)
from heterolora.architectures.loading import Headed, Loaded, folder_of, load_pretrained
from heterolora.architectures.wiring import wire

__all__ = [
    "FAMILIES",
    "Family",
    "Headed",
    "Loaded",
    "Parts",
    "adapt",
    "family_named",
    "family_of",
    "folder_of",
    "head_of",
    "layers_of",
    "load",
    "load_pretrained",
    "register",
    "save",
    "wire",
]
