"""Objects that several test files build: tasks, loaded checkpoints, subjects, proxies."""

import copy
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import composed

from heterolora import architectures
from heterolora.adapters import Adapters, Space
from heterolora.architectures import Loaded
from heterolora.harness.config import ModelConfig, TaskConfig, checkpoints, plugins
from heterolora.harness.config.schema import ProxyConfig
from heterolora.harness.data import sources
from heterolora.losses import Loss
from heterolora.proxies import Proxy
from heterolora.settings import Settings, Situation
from heterolora.sites import Site
from heterolora.tasks import Encoded

RANK, ALPHA = 2, 16


def one_problem(chosen: Settings) -> str:
    """The only problem that something has by itself, in the words of the library."""
    (problem,) = chosen.problems(Situation())
    return str(problem)


def covering(
    *factors: Sequence[Any], times: int = 1, also: Iterable[tuple[Any, ...]] = ()
) -> list[Any]:
    """The full product for `parametrize`, most of it marked `exhaustive`.

    What is not marked is `times` cases with each value of the longest factor, which go through the
    values of the other factors in turn, and the cases of `also`.
    """
    main = max(range(len(factors)), key=lambda place: len(factors[place]))
    chosen = {tuple(f.index(v) for f, v in zip(factors, case, strict=True)) for case in also}
    for turn, shift in itertools.product(range(len(factors[main])), range(times)):
        case, stride = [], 1
        for place, factor in enumerate(factors):
            case.append(turn if place == main else (turn // stride + shift) % len(factor))
            stride *= 1 if place == main else len(factor)
        chosen.add(tuple(case))
    for place, factor in enumerate(factors):
        assert {case[place] for case in chosen} == {*range(len(factor))}
    return [
        pytest.param(
            *(factor[index] for factor, index in zip(factors, case, strict=True)),
            marks=() if case in chosen else pytest.mark.exhaustive,
        )
        for case in itertools.product(*(range(len(factor)) for factor in factors))
    ]


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


def read(path: Path, seed: int = 0) -> Loaded:
    """A checkpoint with the head of `task()`, from its files."""
    return checkpoints.load(checkpoint(path), task().build(), seed)


@functools.cache
def _read_once(path: Path, seed: int, state: frozenset[tuple[str, int, int]]) -> Loaded:
    return read(path, seed)


def _kept(path: Path, seed: int = 0) -> Loaded:
    """A checkpoint that was read once, and again only if its files have changed: not to touch."""
    files = ((file.name, file.stat()) for file in path.iterdir())
    state = frozenset((name, stat.st_mtime_ns, stat.st_size) for name, stat in files)
    return _read_once(path, seed, state)


def load(path: Path, seed: int = 0) -> Loaded:
    """As `read`, but a copy of what was read once; the tokenizer is shared."""
    kept = _kept(path, seed)
    return copy.deepcopy(kept, {id(shared): shared for shared in (kept.tokenizer, kept.family)})


@functools.cache
def settings_of(group: str) -> Mapping[str, Mapping[str, Any]]:
    """The settings of every choice in a group: under conf or of other packages, composed once."""
    names = plugins.choices(group)
    every = composed(*(f"+{group}@importance.{name}={name}" for name in names)).importance
    return {name: dict(every[name]) for name in names}


def proxy_section(name: str, **changes: object) -> ProxyConfig:
    """That of conf/proxy/<name>.yaml, with 3 batches of 4 if it takes any."""
    settings = {**settings_of("proxy")[name], **changes}
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


@functools.cache
def _training(path: Path, pairs: Path) -> tuple[Encoded, Loss]:
    """The training pairs, encoded for a checkpoint: nobody changes them."""
    loaded = _kept(path)
    of_pairs = task(path=str(pairs), sentences=("sentence1", "sentence2"))
    made = of_pairs.build()
    rows = sources.load(of_pairs, "train")
    encoded = made.encode(rows, loaded.tokenizer, loaded.positions, torch.device("cpu"))
    return encoded, made.loss


def subject(path: Path, pairs: Path, seed: int = 0, searched: Space | None = None) -> Subject:
    loaded = load(path)
    adapters = architectures.wire(
        loaded.model, loaded.family, searched or space(), loaded.head, seed
    )
    return Subject(adapters, *_training(path, pairs))


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
