"""EVA: how much of a site's input each rank can explain (https://arxiv.org/abs/2410.07170)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heterolora.losses import Autocast, Batch, Loss, default_loss, inputs
from heterolora.proxies.base import SampleProxy
from heterolora.proxies.passes import as_they_stand, evaluation_mode, mask_of, moved
from heterolora.proxies.spectral import Gains, Spectral
from heterolora.settings import torch
from heterolora.sites import Site

if TYPE_CHECKING:
    from torch import Tensor

    from heterolora.adapters import Ranked


@dataclass(frozen=True)
class Eva(Spectral, SampleProxy):
    """EVA: gains `g_k = lambda_k / sum_j lambda_j`, from eigenvalues of `sum over tokens of x x^T`.

    x is the input of the site for each token of the sample that is not padding, in the model with
    all adapters on at their current weights. A of rank r keeps at most `sum_{k<=r} g_k` of the
    inputs' squared length. No mean is subtracted: lambda_k are the squared singular values of the
    inputs, as EVA decomposes them (PEFT's implementation subtracts the mean). Sites with the same
    input, such as q, k and v of a layer, score the same, and a search breaks their ties at random.

    It reads no labels. Scoring takes memory for a d_in x d_in matrix at each site.
    """

    @property
    def needs_labels(self) -> bool:
        """False: the proxy reads only inputs."""
        return False

    def gains(
        self,
        adapters: Ranked[Any],
        batches: Iterable[Batch],
        loss: Loss = default_loss,
        autocast: Autocast = nullcontext,
    ) -> Gains:
        """Return each eigenvalue's share of their sum at every site, largest first."""
        moments = self._moments(adapters, batches, autocast)
        return {site: _shares(moments[site]) for site in adapters}

    def _moments(
        self, adapters: Ranked[Any], batches: Iterable[Batch], autocast: Autocast
    ) -> dict[Site, Tensor]:
        """Return `sum over tokens of x x^T` (d_in, d_in) for every site."""
        model, tensors = adapters.model, as_they_stand(adapters)
        moments: dict[Site, Tensor] = {}
        with evaluation_mode(model), torch.no_grad():
            for batch in self.micro_batches(batches):
                here = {name: moved(value, model.device) for name, value in batch.items()}
                tokens = mask_of(here).flatten().nonzero()[:, 0]
                seen: set[Site] = set()

                def add(
                    site: Site, x: Tensor, tokens: Tensor = tokens, seen: set[Site] = seen
                ) -> None:
                    if site in seen:
                        return  # DeBERTa's q and k map relative positions after the tokens
                    seen.add(site)
                    rows = x.flatten(0, -2).index_select(0, tokens.to(x.device))
                    rows = rows.to(torch.promote_types(x.dtype, torch.float32))
                    if site not in moments:
                        moments[site] = rows.new_zeros(rows.shape[1], rows.shape[1])
                    moments[site].addmm_(rows.T, rows)  # in place, which autocast leaves alone

                with _told(adapters, add), autocast():
                    torch.func.functional_call(model, tensors, kwargs=inputs(here))
        return moments


def _shares(moments: Tensor) -> list[float]:
    """Return the eigenvalues over their sum, largest first; rounding errors below 0 become 0."""
    eigenvalues = torch.linalg.eigvalsh(moments).flip(0).clamp(min=0)
    shares: list[float] = (eigenvalues / eigenvalues.sum()).tolist()
    return shares


@contextmanager
def _told(adapters: Ranked[Any], see: Callable[[Site, Tensor], None]) -> Iterator[None]:
    """Call `see` with each site and its input within the context.

    A and B must be passed in, as by `functional_call`; otherwise not every adapter's module is
    called.
    """
    handles = [
        adapter.module.register_forward_pre_hook(lambda _, args, site=site: see(site, args[0]))
        for site, adapter in adapters.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
