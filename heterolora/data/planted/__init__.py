"""A task whose right sites are known: to answer as the embedded model, changed at a few sites."""

from heterolora.data.planted.labelling import answers
from heterolora.data.planted.teacher import planted_sites

__all__ = ["answers", "planted_sites"]
