"""Model families: where each keeps its parts, and how adapters are put on its models."""

from heterolora.architectures.adapting import adapt, check_without_shortcuts, load, merge, save
from heterolora.architectures.family import (
    FAMILIES,
    Family,
    Parts,
    check_whole,
    family_named,
    family_of,
    head_of,
    layers_of,
    projection_name,
    register,
)
from heterolora.architectures.loading import Headed, Loaded, folder_of, load_pretrained
from heterolora.architectures.packed_rows import separate
from heterolora.architectures.storage import Storage
from heterolora.architectures.wiring import wire

__all__ = [
    "FAMILIES",
    "Family",
    "Headed",
    "Loaded",
    "Parts",
    "Storage",
    "adapt",
    "check_whole",
    "check_without_shortcuts",
    "family_named",
    "family_of",
    "folder_of",
    "head_of",
    "layers_of",
    "load",
    "load_pretrained",
    "merge",
    "projection_name",
    "register",
    "save",
    "separate",
    "wire",
]
