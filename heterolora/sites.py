"""A site is a place in a Transformer that can hold one low-rank adapter."""

from dataclasses import dataclass
from typing import Literal, get_args

LoraRole = Literal["q", "k", "v", "o", "gate", "up", "down"]
LORA_ROLES: tuple[str, ...] = get_args(LoraRole)
"""Roles of LoRA sites: attention's query, key, value and output, the FFN's gate, up and down."""


@dataclass(frozen=True, slots=True)
class Site:
    """The adapter position `role` in layer `layer` (counted from 0)."""

    layer: int
    role: str

    def __str__(self) -> str:
        return f"layers.{self.layer}.{self.role}"
