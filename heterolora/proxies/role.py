"""ROLE: all sites of some roles, a control."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from heterolora.errors import Problem
from heterolora.proxies.control import Control
from heterolora.settings import Situation, setting
from heterolora.sites import ROLES, LoraRole, ShortcutRole, Site


@dataclass(frozen=True)
class Role(Control):
    """Control, some roles first: `S(M) = 1` at sites of `roles`, and 0 at the others.

    It reads neither model nor data: a proxy that does better has found more than that some roles
    matter.

    Raises:
        ValueError: if there are no roles, or one of them does not exist.
    """

    roles: tuple[Literal[LoraRole, ShortcutRole], ...] = setting(
        ("v",), help="roles of the sites to switch on first", example="[v]"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.roles or not set(self.roles) <= set(ROLES):
            raise ValueError(f"roles={list(self.roles)}: must be one or more of {', '.join(ROLES)}")

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Yield problems as for any control, and if the selection makes all roles equal."""
        yield from super().problems(situation)
        if situation.selection is not None and situation.selection.normalize == "role":
            rule = "prefers some roles, but `normalize=role` makes all roles equal"
            yield Problem("proxy", self.name, rule, "set `normalize=none`")

    def place(self, site: Site) -> float:
        """Return 1 at sites of `roles`, and 0 at the others."""
        return float(site.role in self.roles)
