"""Fine-tuning methods: HeteroLoRA and its baselines, each in the file of its name."""

from heterolora.methods.adalora import AdaLoRA
from heterolora.methods.base import Given, Method, Trained
from heterolora.methods.bitfit import BitFit
from heterolora.methods.eva import Eva
from heterolora.methods.full import Full
from heterolora.methods.head import Head
from heterolora.methods.heterolora import HeteroLoRA
from heterolora.methods.houlsby import Houlsby
from heterolora.methods.peft import Peft

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
