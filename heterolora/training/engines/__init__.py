"""What trains: one process and one run at a time."""

from heterolora.training.engines.base import Engine
from heterolora.training.engines.local import LocalEngine

__all__ = ["Engine", "LocalEngine"]
