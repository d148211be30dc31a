"""Low-rank adapters, the layers that carry them, and the inventory of all of a model's sites."""

from heterolora.adapters.inventory import Inventory
from heterolora.adapters.lora import LoRALinear
from heterolora.adapters.low_rank import LowRank

__all__ = ["Inventory", "LoRALinear", "LowRank"]
