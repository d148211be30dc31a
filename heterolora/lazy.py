"""torch, imported when it is first used.

The command line describes and checks the settings of every plug-in, and importing torch takes
longer than all of that. So a module that defines a plug-in takes `torch` and `F` from here, and
imports under `TYPE_CHECKING` whatever it needs for annotations alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
    from torch.nn import functional as F
else:

    class _Late:
        """A module that is imported with its first attribute."""

        def __init__(self, module: str) -> None:
            self._module = module

        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module(self._module), name)

    torch = _Late("torch")
    F = _Late("torch.nn.functional")

__all__ = ["F", "torch"]
