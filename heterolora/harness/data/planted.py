"""A task whose right sites are known: to answer as the embedded model, changed at a few sites.

The teacher is the embedded model with a low-rank change planted at each of `planted_sites`; its
answer to a text is, for each token, the one that it would say next.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from heterolora.architectures import Loaded, load_pretrained, projection_name
from heterolora.architectures.loading import Headed
from heterolora.harness.config.embedded import MODELS, STARTER, TEACHER
from heterolora.seeding import torch_generator
from heterolora.sites import Site
from heterolora.tasks.base import Columns
from heterolora.tasks.token_labels import NONE, TokenLabels
from heterolora.tasks.tokens import tokenize

TASK = TokenLabels(text="text", label="label", max_length=TEACHER.max_length)


def answers(texts: Sequence[str], planting: int) -> Columns:
    """Return texts, and for each of their tokens the one that the teacher would say next.

    Args:
        texts: any.
        planting: the seed of the changes.
    """
    return {TASK.text: list(texts), TASK.label: [*_labels(texts, teacher(planting, TASK))]}


def planted_sites(planting: int) -> tuple[Site, ...]:
    """Return the sites that are changed: the values of one early layer and of one late layer.

    Args:
        planting: the seed of the changes.
    """
    generator = torch_generator(planting, "where")
    halves = [range(*half) for half in TEACHER.halves]
    drawn = [int(torch.randint(len(half), (), generator=generator)) for half in halves]
    return tuple(Site(half[i], "v") for half, i in zip(halves, drawn, strict=True))


@torch.no_grad()
def teacher(planting: int, task: Headed) -> Loaded:
    """Return the embedded model with the changes, on the CPU.

    Args:
        planting: the seed of the changes.
        task: says which head it has.
    """
    loaded = load_pretrained(MODELS[STARTER], task)
    for site in planted_sites(planting):
        linear = loaded.model.get_submodule(projection_name(loaded.model, loaded.family, site))
        assert isinstance(linear, nn.Linear)
        linear.weight += change(linear.weight, torch_generator(planting, "planted", site))
    return loaded


def change(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Return `size ||W|| U V^T / sqrt(rank)`, U and V random with orthonormal columns.

    All directions of it are equally large, so that no lower rank comes near it.
    """
    rank = TEACHER.rank
    u, v = (torch.linalg.qr(torch.randn(n, rank, generator=generator))[0] for n in weight.shape)
    scaled: Tensor = TEACHER.size * weight.norm() / rank**0.5 * u @ v.T
    return scaled


@torch.inference_mode()
def _labels(texts: Sequence[str], loaded: Loaded) -> Iterator[list[int]]:
    limit = min(TASK.max_length, loaded.positions)
    encoded = tokenize([texts], loaded.tokenizer, limit, torch.device("cpu"))
    for batch in encoded.in_order(TEACHER.batch_size):
        best, said = loaded.model(**batch).logits.topk(2)
        labels = said[..., 0].where(best[..., 0] - best[..., 1] >= TEACHER.lead, NONE)
        for row, tokens in zip(labels, batch["attention_mask"].sum(-1), strict=True):
            yield row[:tokens].tolist()
