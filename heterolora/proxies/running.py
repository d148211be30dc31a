"""What the training steps say of every site, between two searches."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from heterolora.adapters import LowRank, Ranked
from heterolora.adapters.passing import Matrices
from heterolora.sites import Site


@dataclass
class Running:
    """The gradients by A and B of every site, summed over the training steps that were observed.

    They are of each step's mean loss in the model as it is trained, with its dropout and the ranks
    that are on; but those of a site are as if all of its own ranks were on.

    Attributes:
        steps: made since the sums were taken.
        observed: how many of these are in the sums.
        sums: by site.
    """

    steps: int = 0
    observed: int = 0
    sums: dict[Site, Matrices] = field(default_factory=dict)

    @contextmanager
    def step(self, adapters: Ranked[LowRank], every: int) -> Iterator[None]:
        """To be entered around the passes of a training step; observes every `every`-th of them."""
        due = self.steps % every == 0
        self.steps += 1
        if not due:
            yield
            return
        self.observed += 1
        for site, adapter in adapters.items():
            adapter.sums = self.sums[site] = own(self.sums, site, adapter)
        try:
            yield
        finally:
            for adapter in adapters.values():
                adapter.sums = None

    def take(self, adapters: Ranked[LowRank]) -> dict[Site, Matrices]:
        """The sums, which begin anew."""
        taken = {site: own(self.sums, site, adapter) for site, adapter in adapters.items()}
        self.load_state_dict({})
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Empty where no step was made; the tensors are not copies."""
        if self.steps == 0:
            return {}
        return {"steps": self.steps, "observed": self.observed, "sums": plain(self.sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.steps, self.observed = state.get("steps", 0), state.get("observed", 0)
        self.sums = parsed(state.get("sums", {}))


def own(kept: Mapping[Site, Matrices], site: Site, adapter: LowRank) -> Matrices:
    """What is kept of a site, on its device; zeros where nothing is."""
    if site not in kept:
        return torch.zeros_like(adapter.A.detach()), torch.zeros_like(adapter.B.detach())
    a, b = kept[site]
    return a.to(adapter.A.device), b.to(adapter.B.device)


def plain(kept: Mapping[Site, Matrices]) -> dict[str, Any]:
    """As a state has it; the tensors are not copies."""
    return {str(site): {"A": a, "B": b} for site, (a, b) in kept.items()}


def parsed(state: Mapping[str, Any]) -> dict[Site, Matrices]:
    """What `plain` gave, in copies."""
    return {
        Site.parse(name): (pair["A"].clone(), pair["B"].clone()) for name, pair in state.items()
    }
