"""GORA: the importance of the weight beside a site (https://arxiv.org/abs/2502.12171)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heterolora.errors import ModelError, Problem
from heterolora.losses import Autocast, Batch, Loss, default_loss
from heterolora.proxies import needs
from heterolora.proxies.base import SampleProxy
from heterolora.proxies.passes import as_they_stand, evaluation_mode
from heterolora.settings import Situation, torch
from heterolora.sites import Site

if TYPE_CHECKING:
    from torch import nn

    from heterolora.adapters import Ranked


@dataclass(frozen=True)
class Gora(SampleProxy):
    """GoRA: `S(M) = mean |W dL/dW|`, entry by entry, of the linear layer that a site adapts.

    W is the layer's weight including what has been trained, `W0 + s B A`; before training that is
    W0, as in GoRA. The gradient is dL/dW as in the paper, and not `s dL/dW`, from which A and B
    learn: s appears in W alone. It is a mean and not a sum, so that the size of the layer does not
    count.

    A shortcut has no weight, and cannot be scored. If a layer computes several projections, W has
    the rows of the site's projection. Scoring takes memory for two d_out x d_in matrices at each
    site.
    """

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Yield problems as for any loss, and for sites that have no weight to read."""
        yield from super().problems(situation)
        yield from needs.whole_weights(self.name, situation)
        if situation.shortcuts:
            yield self._no_weight("shortcuts have")

    def scores(
        self,
        adapters: Ranked[Any],
        batches: Iterable[Batch],
        loss: Loss = default_loss,
        autocast: Autocast = nullcontext,
    ) -> dict[Site, float]:
        """Return the mean absolute value of weight times gradient at every site.

        Raises:
            ModelError: if a site has no weight, or a quantized one.
        """
        weights, model = self._weights(adapters), adapters.model
        distinct = {id(weight): weight for weight in weights.values()}
        leaves = {key: weight.detach().requires_grad_() for key, weight in distinct.items()}
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        tensors = as_they_stand(adapters) | {names[key]: leaf for key, leaf in leaves.items()}
        with evaluation_mode(model), torch.enable_grad():
            gradients = self.loss_gradients(
                adapters, list(leaves.values()), tensors, batches, loss, autocast
            )
        by_weight = dict(zip(leaves, gradients, strict=True))
        rows_of = adapters.rows
        scores: dict[Site, float] = {}
        with torch.no_grad():
            for site, weight in weights.items():
                rows = rows_of.get(site, slice(None))
                whole = leaves[id(weight)][rows] + adapters[site].delta
                scores[site] = (whole * by_weight[id(weight)][rows]).abs().mean().item()
        return scores

    def _weights(self, adapters: Ranked[Any]) -> dict[Site, nn.Parameter]:
        """Return the weight that each site adapts.

        Raises:
            ModelError: if a site has none, or one that has no gradient.
        """
        layers, weights = adapters.linears, {}
        for site in adapters:
            if site not in layers:
                raise ModelError(str(self._no_weight(f"the shortcut {site} has")))
            weights[site] = layers[site].get_parameter("weight")
            if not weights[site].is_floating_point():
                quantized = f"{site} is quantized ({weights[site].dtype}) and has no gradient"
                another = "choose another proxy, such as gradnorm"
                raise ModelError(str(Problem("proxy", self.name, quantized, another)))
        return weights

    def _no_weight(self, who_has: str) -> Problem:
        rule = f"GoRA needs the weight that a site adapts, and {who_has} none"
        return Problem("proxy", self.name, rule, "set `shortcuts=[]`")
