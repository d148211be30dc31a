"""Engines, which make the optimizer steps and evaluate: here, for one run in one process."""

from heterolora.training.engines.base import Engine
from heterolora.training.engines.local import LocalEngine

__all__ = ["Engine", "LocalEngine"]
