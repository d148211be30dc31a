"""HeteroLoRA: a fixed budget of low-rank parameters, spent where zero-cost proxies say it matters.

The names in `__all__` are the library. They need only torch and transformers, and are imported
when first used. The harness around it (configurations, runs, reports) is `heterolora.harness`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from heterolora import proxies, strategies, tasks
    from heterolora.adapters import Adapters
    from heterolora.allocation import Allocation, Pool, select, selection
    from heterolora.architectures import adapt, load, load_pretrained, merge, save
    from heterolora.integrations.callback import HeteroLoRACallback
    from heterolora.integrations.peft import from_peft, to_peft
    from heterolora.integrations.suggest import suggest
    from heterolora.losses import default_loss
    from heterolora.sites import Site
    from heterolora.strategies import Search
    from heterolora.training.engines import LocalEngine
    from heterolora.training.optimizer import adamw
    from heterolora.training.trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "Adapters",
    "Allocation",
    "HeteroLoRACallback",
    "LocalEngine",
    "Pool",
    "Search",
    "Site",
    "Trainer",
    "adamw",
    "adapt",
    "default_loss",
    "from_peft",
    "load",
    "load_pretrained",
    "merge",
    "proxies",
    "save",
    "select",
    "selection",
    "strategies",
    "suggest",
    "tasks",
    "to_peft",
]

_HOME = {
    "Adapters": "adapters",
    "Allocation": "allocation",
    "HeteroLoRACallback": "integrations.callback",
    "LocalEngine": "training.engines",
    "Pool": "allocation",
    "Search": "strategies",
    "Site": "sites",
    "Trainer": "training.trainer",
    "adamw": "training.optimizer",
    "adapt": "architectures",
    "default_loss": "losses",
    "from_peft": "integrations.peft",
    "load": "architectures",
    "load_pretrained": "architectures",
    "merge": "architectures",
    "save": "architectures",
    "select": "allocation",
    "selection": "allocation",
    "suggest": "integrations.suggest",
    "to_peft": "integrations.peft",
}
"""The submodule that defines each public name; names not listed here are subpackages."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'heterolora' has no attribute '{name}'")
    if name in _HOME:
        return getattr(importlib.import_module(f"heterolora.{_HOME[name]}"), name)
    return importlib.import_module(f"heterolora.{name}")


def __dir__() -> list[str]:
    return __all__
