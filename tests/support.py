"""Objects that several test files build: tasks, loaded checkpoints, subjects, proxies."""

import contextlib
from pathlib import Path

import torch
from conftest import composed

from heterolora import architectures, proxies
from heterolora.adapters import Inventory
from heterolora.architectures import Loaded, Shortcuts
from heterolora.config import ModelConfig, TaskConfig
from heterolora.data import sources
from heterolora.data.batching import encode
from heterolora.data.tasks import summed_loss
from heterolora.proxies import Proxy, Subject

RANK, ALPHA = 2, 16


def task(num_labels: int = 2) -> TaskConfig:
    return TaskConfig(
        name="toy",
        source="-",
        subset=None,
        path=None,
        revision=None,
        train_split="train",
        validation_split="validation",
        sentences=("sentence",),
        label="label",
        num_labels=num_labels,
        metrics=("accuracy",),
        max_length=16,
    )


def checkpoint(path: Path) -> ModelConfig:
    return ModelConfig(name="tiny", path=str(path), revision=None)


def load(path: Path, seed: int = 0) -> Loaded:
    return architectures.load(checkpoint(path), task(), seed)


def configured(name: str, **changes: object) -> Proxy:
    """The proxy of conf/proxy/<name>.yaml, with 3 batches of 4 if it takes any."""
    settings = dict(composed(f"proxy={name}").proxy) | changes
    if "num_batches" in settings:
        settings |= {"num_batches": 3, "batch_size": 4}
    kind = proxies.find(name)
    assert kind is not None
    proxy = kind(**settings)
    assert isinstance(proxy, Proxy)
    return proxy


def subject(path: Path, pairs: Path, seed: int = 0, shortcuts: Shortcuts | None = None) -> Subject:
    loaded = load(path)
    pair_task = task().model_copy(
        update={"path": str(pairs), "sentences": ("sentence1", "sentence2")}
    )
    examples = encode(
        pair_task,
        sources.load(pair_task, "train"),
        loaded.tokenizer,
        loaded.positions,
        torch.device("cpu"),
    )
    inventory = architectures.wire(
        loaded.model, loaded.family, {"q": RANK, "v": RANK}, ALPHA, 0, loaded.head, shortcuts
    )
    return Subject(inventory, examples, summed_loss(task()), seed, contextlib.nullcontext)


def randomise(inventory: Inventory) -> None:
    generator = torch.Generator().manual_seed(3)
    for adapter in inventory.adapters.values():
        adapter.B.data.normal_(std=0.1, generator=generator)
