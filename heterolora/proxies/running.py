"""What the training steps say of every site, between two searches."""

from collections.abc import Iterator
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
            adapter.sums = self.sums[site] = self._of(site, adapter)
        try:
            yield
        finally:
            for adapter in adapters.values():
                adapter.sums = None

    def take(self, adapters: Ranked[LowRank]) -> dict[Site, Matrices]:
        """The sums, which begin anew."""
        taken = {site: self._of(site, adapter) for site, adapter in adapters.items()}
        self.load_state_dict({})
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Empty where no step was made; the tensors are not copies."""
        if self.steps == 0:
            return {}
        sums = {str(site): {"A": a, "B": b} for site, (a, b) in self.sums.items()}
        return {"steps": self.steps, "observed": self.observed, "sums": sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.steps, self.observed = state.get("steps", 0), state.get("observed", 0)
        self.sums = {
            Site.parse(name): (pair["A"].clone(), pair["B"].clone())
            for name, pair in state.get("sums", {}).items()
        }

    def _of(self, site: Site, adapter: LowRank) -> Matrices:
        """The sums of a site, on its device; zeros where there are none."""
        if site not in self.sums:
            return torch.zeros_like(adapter.A.detach()), torch.zeros_like(adapter.B.detach())
        a, b = self.sums[site]
        return a.to(adapter.A.device), b.to(adapter.B.device)
