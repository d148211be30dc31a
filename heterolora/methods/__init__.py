"""Fine-tuning methods: HeteroLoRA and its baselines, each in the file of its name."""

from typing import TYPE_CHECKING, Any

from heterolora.methods.adalora import AdaLoRA
from heterolora.methods.base import Given, Method
from heterolora.methods.bitfit import BitFit
from heterolora.methods.eva import Eva
from heterolora.methods.full import Full
from heterolora.methods.head import Head
from heterolora.methods.heterolora import HeteroLoRA
from heterolora.methods.houlsby import Houlsby
from heterolora.methods.peft import Peft

if TYPE_CHECKING:
    from heterolora.adapters.full_parameters import Trained

__all__ = [
    "AdaLoRA",
    "BitFit",
    "Eva",
    "Full",
    "Given",
    "Head",
    "HeteroLoRA",
    "Houlsby",
    "Method",
    "Peft",
    "Trained",
]


def __getattr__(name: str) -> Any:
    if name != "Trained":
        raise AttributeError(f"module 'heterolora.methods' has no attribute '{name}'")
    # `Trained` needs torch; the methods do not until they are applied.
    from heterolora.adapters.full_parameters import Trained

    return Trained
