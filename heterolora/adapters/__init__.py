"""Low-rank adapters, the layers that carry them, and a mapping of a model's adapters by site."""

from heterolora.adapters.adapters import Adapters
from heterolora.adapters.lora import LoRALinear, LoRARows
from heterolora.adapters.low_rank import LowRank
from heterolora.adapters.ranked import Adapter, Ranked
from heterolora.adapters.scaling import Scaling
from heterolora.adapters.space import Space

__all__ = ["Adapter", "Adapters", "LoRALinear", "LoRARows", "LowRank", "Ranked", "Scaling", "Space"]
