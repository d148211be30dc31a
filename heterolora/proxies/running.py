"""Gradients observed in the training steps between two searches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from heterolora.settings import torch
from heterolora.sites import Site

if TYPE_CHECKING:
    from heterolora.adapters import Adapters, LowRank, Ranked
    from heterolora.adapters.gradient_tap import Matrices
    from heterolora.proxies.passes import AB


class Observer(Protocol):
    """Observes the training steps of one run, and scores the sites by what it has seen."""

    @property
    def observed(self) -> int:
        """How many training steps the next scores are computed from."""

    def observe(self, adapters: Adapters) -> AbstractContextManager[object]:
        """Return a context in which a training step runs its forward and backward pass.

        It must not change any number of the training. Gradients are complete when it exits.
        """

    def scores(self, adapters: Ranked[Any]) -> dict[Site, float]:
        """Score every site by the steps that were observed."""

    def state_dict(self) -> dict[str, Any]:
        """Return what was observed; empty if nothing was."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""


@dataclass
class Running:
    """The gradients of A and B at every site, summed over the training steps that were observed.

    They are gradients of each step's mean loss in the model as it is trained, with its dropout and
    the ranks that are on, except that those of a site are as if all of its own ranks were on.

    Attributes:
        saliencies: scores the sites, from their A and B and the gradients with respect to them.
        every: observe every n-th step.
        steps: the number of steps made since the sums were last taken.
        observed: how many of these steps are in the sums.
        sums: the summed gradients, by site.
    """

    saliencies: Callable[[AB, AB], dict[Site, float]]
    every: int
    steps: int = 0
    observed: int = 0
    sums: dict[Site, Matrices] = field(default_factory=dict)

    @contextmanager
    def observe(self, adapters: Ranked[LowRank]) -> Iterator[None]:
        """Wrap the passes of a training step; observe every `every`-th."""
        due = self.steps % self.every == 0
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

    def scores(self, adapters: Ranked[LowRank]) -> dict[Site, float]:
        """Score the current weights with the sums, and start again from zero."""
        theta = {site: adapter.matrices for site, adapter in adapters.items()}
        return self.saliencies(theta, self.take(adapters))

    def take(self, adapters: Ranked[LowRank]) -> dict[Site, Matrices]:
        """Return the sums, and start again from zero."""
        taken = {site: own(self.sums, site, adapter) for site, adapter in adapters.items()}
        self.load_state_dict({})
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Return the state; empty if no step was made. The tensors are not copies."""
        if self.steps == 0:
            return {}
        return {"steps": self.steps, "observed": self.observed, "sums": plain(self.sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self.steps, self.observed = state.get("steps", 0), state.get("observed", 0)
        self.sums = parsed(state.get("sums", {}))


def own(kept: Mapping[Site, Matrices], site: Site, adapter: LowRank) -> Matrices:
    """Return what is kept for a site, on the adapter's device; zeros if nothing is."""
    if site not in kept:
        return torch.zeros_like(adapter.A.detach()), torch.zeros_like(adapter.B.detach())
    a, b = kept[site]
    return a.to(adapter.A.device), b.to(adapter.B.device)


def plain(kept: Mapping[Site, Matrices]) -> dict[str, Any]:
    """Return `kept` in the form of a state; the tensors are not copies."""
    return {str(site): {"A": a, "B": b} for site, (a, b) in kept.items()}


def parsed(state: Mapping[str, Any]) -> dict[Site, Matrices]:
    """Return what was given to `plain`, in copies."""
    return {
        Site.parse(name): (pair["A"].clone(), pair["B"].clone()) for name, pair in state.items()
    }
