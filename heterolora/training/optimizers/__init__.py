"""Optimizers, each kind in the file of its name."""

from heterolora.training.optimizers.adamw import AdamW
from heterolora.training.optimizers.base import Optimizer
from heterolora.training.optimizers.torch import Torch

__all__ = ["AdamW", "Optimizer", "Torch"]
