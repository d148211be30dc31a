"""A site is a place in a Transformer that can hold one low-rank adapter."""

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["lora", "shortcut"]
LoraRole = Literal["q", "k", "v", "o", "gate", "up", "down"]
ShortcutRole = Literal["res1", "res2", "in", "cut"]

LORA_ROLES: tuple[str, ...] = get_args(LoraRole)
"""Roles of LoRA sites: attention's query, key, value and output, the FFN's gate, up and down."""

SHORTCUT_ROLES: tuple[str, ...] = get_args(ShortcutRole)
"""Roles of shortcut sites: the residuals around attention and FFN, and the cross-layer shortcuts
from a block's input to its output, and from the attention of one block to that of the next."""

ROLES = LORA_ROLES + SHORTCUT_ROLES
"""Every role, in the order in which sites are listed and drawn."""


@dataclass(frozen=True, slots=True)
class Site:
    """The adapter position `role` in layer `layer` (counted from 0)."""

    layer: int
    role: str

    @classmethod
    def parse(cls, name: str) -> "Site":
        """Return the site with a name such as `layers.0.q`, the inverse of `str`."""
        _, layer, role = name.split(".")
        return cls(int(layer), role)

    @property
    def kind(self) -> Kind:
        """`lora` for a site at a linear layer, `shortcut` for one on a shortcut."""
        return "shortcut" if self.role in SHORTCUT_ROLES else "lora"

    def __str__(self) -> str:
        return f"layers.{self.layer}.{self.role}"
