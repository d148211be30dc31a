"""Objects that several test files build: tasks, loaded checkpoints, subjects, proxies."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from conftest import composed

from heterolora import architectures
from heterolora.adapters import Adapters, Space
from heterolora.architectures import Loaded
from heterolora.config import ModelConfig, TaskConfig, checkpoints, plugins
from heterolora.config.schema import ProxyConfig
from heterolora.data import sources
from heterolora.losses import Loss
from heterolora.proxies import Proxy
from heterolora.sites import Site
from heterolora.tasks import Encoded

RANK, ALPHA = 2, 16


def task(**changes: object) -> TaskConfig:
    """A classification of single sentences."""
    section = plugins.find("task", "classification")
    assert section is not None
    settings = {
        "name": "toy",
        "source": "-",
        "subset": None,
        "path": None,
        "revision": None,
        "train_split": "train",
        "validation_split": "validation",
        "sentences": ("sentence",),
        "label": "label",
        "num_labels": 2,
        "metrics": ("accuracy",),
        "max_length": 16,
    }
    made = section(**(settings | changes))
    assert isinstance(made, TaskConfig)
    return made


def checkpoint(path: Path) -> ModelConfig:
    return ModelConfig(name="tiny", path=str(path), revision=None)


def load(path: Path, seed: int = 0) -> Loaded:
    return checkpoints.load(checkpoint(path), task().build(), seed)


def proxy_section(name: str, **changes: object) -> ProxyConfig:
    """That of conf/proxy/<name>.yaml, with 3 batches of 4 if it takes any."""
    settings = dict(composed(f"proxy={name}").proxy) | changes
    if "num_batches" in settings:
        settings |= {"num_batches": 3, "batch_size": 4}
    section = plugins.find("proxy", name)
    assert section is not None
    made = section(**settings)
    assert isinstance(made, ProxyConfig)
    return made


def configured(name: str, **changes: object) -> Proxy:
    """The proxy of `proxy_section`."""
    return proxy_section(name, **changes).build()


@dataclass(frozen=True)
class Subject:
    """What is scored: adapters on a model, training examples and a loss."""

    adapters: Adapters
    examples: Encoded
    loss: Loss

    def scores(self, proxy: Proxy) -> dict[Site, float]:
        return proxy.scores(self.adapters, proxy.sample(self.examples), self.loss)


def space(**changes: object) -> Space:
    """Q and v at rank 2, scaled as in the paper."""
    settings = {"lora": {"q": RANK, "v": RANK}, "lora_alpha": ALPHA, "scaling": "alpha_over_rank"}
    return Space(**(settings | changes))


def subject(path: Path, pairs: Path, seed: int = 0, searched: Space | None = None) -> Subject:
    loaded = load(path)
    of_pairs = task(path=str(pairs), sentences=("sentence1", "sentence2"))
    made = of_pairs.build()
    examples = made.encode(
        sources.load(of_pairs, "train"), loaded.tokenizer, loaded.positions, torch.device("cpu")
    )
    adapters = architectures.wire(
        loaded.model, loaded.family, searched or space(), loaded.head, seed
    )
    return Subject(adapters, examples, made.loss)


def matrices(adapters: Adapters) -> list[torch.nn.Parameter]:
    """A and B of every site."""
    return [matrix for adapter in adapters.values() for matrix in (adapter.A, adapter.B)]


def switch_on(adapters: Adapters, sites: Iterable[Site]) -> None:
    """All ranks of exactly these sites."""
    adapters.apply({site: adapters[site].capacity for site in sites})


def randomize(adapters: Adapters) -> None:
    generator = torch.Generator().manual_seed(3)
    for adapter in adapters.values():
        adapter.B.data.normal_(std=0.1, generator=generator)
