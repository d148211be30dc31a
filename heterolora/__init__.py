"""HeteroLoRA: a fixed budget of low-rank parameters, spent where zero-cost proxies point."""

__version__ = "0.1.0"
