"""Suggest an allocation for a user's own model, and the `LoraConfig` that has it."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel

from heterolora.adapters import Adapters, Space
from heterolora.allocation import (
    Allocation,
    Selection,
    enabled_rank,
    homogeneous_budget,
)
from heterolora.architectures import adapt, check_whole, family_of, projection_name
from heterolora.architectures.shell import shell
from heterolora.errors import ModelError
from heterolora.integrations.peft import lora_config
from heterolora.losses import Batch, Loss, usual_loss
from heterolora.proxies import Proxy
from heterolora.proxies.spectral import candidates
from heterolora.seeding import python_generator
from heterolora.settings import Situation, class_in, names_in
from heterolora.sites import ROLES, Site

if TYPE_CHECKING:
    from peft import LoraConfig

BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Suggestion:
    """Where to spend a budget of LoRA parameters in a model; `print` shows it.

    Attributes:
        allocation: the rank of each site, and how clearly the scores decided it.
        scores: the score of each site.
        proxy: the name of the proxy that scored the sites.
        examples: the number of examples that were scored.
        seconds: the time that scoring took.
        budget: the budget in adapter parameters.
        model: the model, unchanged.
        space: the search space that the ranks belong to.
    """

    allocation: Allocation
    scores: Mapping[Site, float]
    proxy: str
    examples: int
    seconds: float
    budget: int
    model: PreTrainedModel
    space: Space

    @property
    def ranks(self) -> Mapping[Site, int]:
        """The rank of every site; 0 means off."""
        return self.allocation.ranks

    def to_peft(self, **options: Any) -> "LoraConfig":
        """Return the configuration for `peft.get_peft_model(model, ...)`.

        Every site that is on has its rank in `rank_pattern`, and in `alpha_pattern` the alpha that
        gives all of them the same factor, alpha / budget rank.

        Args:
            options: further options of `peft.LoraConfig`, such as `lora_dropout`.

        Raises:
            ModelError: if PEFT is not installed, or projections are parts of a layer.
            ValueError: if an option is one that the allocation determines, such as `r`.
        """
        family = family_of(self.model)
        check_whole(self.model.config, family, [s.role for s, r in self.ranks.items() if r])
        names = {s: projection_name(self.model, family, s) for s, r in self.ranks.items() if r}
        return lora_config(
            self.model,
            {name: self.ranks[site] for site, name in names.items()},
            {name: self.space.scaling_of(s)(self.ranks[s]) for s, name in names.items()},
            **options,
        )

    def plot(self, file: str | Path) -> None:
        """Draw the scores as colors, with layers down and roles across, and the ranks that are on.

        Args:
            file: the image file to write, such as `allocation.png`. Requires matplotlib.
        """
        from matplotlib import image

        from heterolora.drawing.heatmap import heatmap

        scores = {str(site): score for site, score in self.scores.items()}
        ranks = {str(site): rank for site, rank in self.ranks.items()}
        image.imsave(file, heatmap(scores, ranks))

    def __str__(self) -> str:
        on = len(self.allocation.enabled)
        head = (
            f"{self.proxy} on {self.examples} examples ({self.seconds:.1f} s): "
            f"{on} of {len(self.ranks)} sites on, {self.allocation.parameters:,} parameters "
            f"(budget {self.budget:,})"
        )
        doubt = []
        if self.allocation.degenerate:
            doubt = ["all scores are equal, so the choice is random"]
        elif self.allocation.tied:
            doubt = [
                f"{self.allocation.tied} sites tie at the cutoff, so the choice among them is "
                "random"
            ]
        return "\n".join([head, *doubt, *self._grid()])

    def _grid(self) -> Iterator[str]:
        """Yield a line for each layer, with rank and score (as a bar) in each role's column."""
        roles = [role for role in ROLES if any(site.role == role for site in self.ranks)]
        yield "layer" + "".join(f"{role:>8}" for role in roles)
        low, high = min(self.scores.values()), max(self.scores.values())
        for layer in sorted({site.layer for site in self.ranks}):
            cells = []
            for site in (Site(layer, role) for role in roles):
                share = (self.scores[site] - low) / (high - low) if high > low else 1.0
                bar = BARS[round(share * (len(BARS) - 1))]
                cells.append(f"{self.ranks[site] or '-':>6} {bar}")
            yield f"{layer:>5}" + "".join(cells)


def suggest(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    loss: Loss | None = None,
    proxy: str | Proxy = "gradnorm",
    budget_rank: int = 8,
    selection: str | Selection = "top",
    target: Sequence[str] = ("q", "v"),
    *,
    enable_rate: float = 0.25,
    alpha: float = 16,
    seed: int = 0,
) -> Suggestion:
    """Suggest where the LoRA parameters of a model should go, for a budget and some data.

    The model is not changed, and no copy of its weights is made.

    Args:
        model: a Transformers model of a known family (`ModelError` lists them), without PEFT.
        batches: what it is to be trained on, such as a DataLoader: dictionaries of tensors, with
            `labels`. The first 256 examples are read.
        loss: a function of the model's output and a batch that returns the sum of the losses and
            their number; the loss that Transformers uses for the model if None.
        proxy: scores the sites: `gradnorm`, `snip`, `fisher`, `gora`, `eva`, ..., `constant`
            (those in docs/configuration.md), or an object from `heterolora.proxies`.
        budget_rank: sets the budget to that of plain LoRA with this rank at every site.
        selection: how ranks follow from scores: `top`, `proportional`, or an object from
            `heterolora.selection`.
        target: the roles of the linear layers that can have an adapter: `q`, `k`, `v`, `o`, `up`,
            `down`, `gate`.
        enable_rate: a site can have a rank of up to budget rank / enable rate; with `top`, it has
            that rank or none.
        alpha: the alpha of LoRA; the factor of every site is alpha / budget rank.
        seed: the seed of what is drawn, such as the choice among equal scores.

    Raises:
        ModelError: if the model's family is not known, or PEFT has wrapped the model.
        AllocationError: if a score is not finite, or the budget allows no allocation.
        ValueError: if a setting does not exist or fit, or there are no batches.
    """
    scoring = _usable(made("proxy", proxy, "heterolora.proxies"), model)
    selecting: Selection = made("selection", selection, "heterolora.allocation.selection")
    adapters = _adapters(model, target, budget_rank, enable_rate, alpha, seed)
    started, read = time.perf_counter(), _Counted(batches)
    scored = candidates(scoring, adapters, read, loss or usual_loss(model))
    if scoring.needs_labels and not read.examples:
        raise ValueError("there are no batches to score on; a generator can be read only once")
    seconds = time.perf_counter() - started
    unit_costs = adapters.unit_costs
    budget = homogeneous_budget(unit_costs, dict.fromkeys(unit_costs, budget_rank))
    return Suggestion(
        allocation=selecting.select(scored, budget, python_generator(seed, "selection")),
        scores=dict(scored.scores),
        proxy=scoring.name,
        examples=read.examples,
        seconds=seconds,
        budget=budget,
        model=model,
        space=adapters.space,
    )


def _usable(proxy: Proxy, model: PreTrainedModel) -> Proxy:
    """Return the proxy; reject one that scores training steps, or cannot score this model."""
    for problem in proxy.problems(Situation(device=model.device)):
        raise ValueError(str(problem))
    return proxy


def _adapters(
    model: PreTrainedModel,
    target: Sequence[str],
    budget_rank: int,
    enable_rate: float,
    alpha: float,
    seed: int,
) -> Adapters:
    """Return adapters on a copy of the model that shares its weights."""
    if hasattr(model, "peft_config"):
        raise ModelError("the model already has PEFT adapters; call suggest before get_peft_model")
    if budget_rank < 1 or not 0 < enable_rate <= 1 or not target:
        raise ValueError(
            f"budget_rank={budget_rank}, enable_rate={enable_rate}, target={list(target)}: must be "
            "at least 1, above 0 and at most 1, and not empty"
        )
    capacity = enabled_rank(budget_rank, enable_rate)
    if capacity is None:
        raise ValueError(
            f"enable_rate={enable_rate}: budget_rank / enable_rate must be whole, but "
            f"{budget_rank} / {enable_rate:g} is not; for example enable_rate=0.25"
        )
    return adapt(
        shell(model),
        dict.fromkeys(target, capacity),
        seed=seed,
        lora_alpha=alpha,
        budget_ranks=dict.fromkeys(target, budget_rank),
    )


class _Counted:
    """Batches that count the examples read from them."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches
        self.examples = 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            if not isinstance(batch, Mapping):
                raise ValueError(
                    f"a batch is a {type(batch).__name__}; it must be a dictionary of tensors, "
                    "such as a tokenizer gives, with labels"
                )
            tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
            self.examples += len(next(iter(tensors.values()), ()))
            yield tensors


def made(what: str, given: Any, package: str) -> Any:
    """Return the object that the name of its file stands for; return any other object unchanged.

    Raises:
        ValueError: if no file has this name.
    """
    if not isinstance(given, str):
        return given
    kind = class_in(package, given)
    if kind is None:
        known = ", ".join(names_in(package))
        raise ValueError(f"{what}={given!r}: there is no such {what}; choose one of {known}")
    return kind()
