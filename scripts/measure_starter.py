"""Measure the embedded model on the embedded task, with the library only.

python scripts/measure_starter.py

The most common label, the head without adapters at two learning rates, all sites on at the budget's
rank, and a quarter of them on at four times the rank, chosen by GRAD-NORM or at random: the best
accuracy over the epochs, in percent, for each seed.
"""

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Sequence

import torch

import heterolora as hl
from heterolora.harness.config.embedded import MODELS, PAIRS, STARTER
from heterolora.tasks.encoded import Encoded

SEEDS = (0, 13, 42)
TASK = hl.tasks.Classification(
    sentences=("sentence1", "sentence2"),
    label="label",
    num_labels=2,
    metrics=("accuracy",),
    max_length=128,
)
EPOCHS, BATCH_SIZE, LEARNING_RATE = 5, 16, 1e-3
RANK, SITES_ON = 2, 4
"""The budget's rank at q and v; a search has one site in four on, at four times the rank."""


def examples(split: str) -> hl.tasks.Examples:
    """A split of the embedded task."""
    return TASK.check(json.loads(PAIRS.read_text())[split], split)


def adapted(seed: int, capacity: int, roles: str = "qv") -> tuple[hl.Adapters, Encoded, Encoded]:
    """The embedded model with adapters of a capacity, and the splits of the embedded task."""
    loaded = hl.load_pretrained(MODELS[STARTER], TASK, seed=seed)
    adapters = hl.adapt(
        loaded.model,
        dict.fromkeys(roles, capacity),
        seed=seed,
        head=loaded.head,
        budget_ranks=dict.fromkeys(roles, RANK),
    )
    train, validation = (
        TASK.encode(examples(split), loaded.tokenizer, loaded.positions, torch.device("cpu"))
        for split in ("train", "validation")
    )
    return adapters, train, validation


def best_accuracy(
    seed: int,
    roles: str = "qv",
    proxy: hl.proxies.Proxy | None = None,
    learning_rate: float = LEARNING_RATE,
) -> float:
    """Fine-tune with one seed, and with a search for the sites that are on if there is a proxy."""
    adapters, train, validation = adapted(seed, RANK * (SITES_ON if proxy else 1), roles)
    search = None
    if proxy is not None:
        pool = hl.Pool(frozenset(adapters), adapters.count // SITES_ON)
        search = hl.Search(adapters, proxy, train, [pool], loss=TASK.loss)
    trainer = hl.Trainer(
        hl.LocalEngine(adapters, TASK, hl.adamw(adapters, learning_rate)),
        train,
        {"": validation},
        EPOCHS,
        BATCH_SIZE,
        seed,
        metric="accuracy",
        strategy=hl.strategies.Dynamic() if search else hl.strategies.Homogeneous(),
        search=search,
    )
    best = trainer.fit().best
    assert best is not None
    return float(best["accuracy"])


def show(arm: str, values: Sequence[float]) -> None:
    """A row of the table, in percent."""
    cells = [arm, *(f"{100 * value:.1f}" for value in values)]
    if len(values) > 1:
        mean, spread = statistics.mean(values), statistics.stdev(values)
        cells.append(f"{100 * mean:.1f} ± {100 * spread:.1f}")
    print(" | ".join(cells), flush=True)


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0]).parse_args()
    labels = examples("validation").columns["label"]
    show("majority class", [Counter(labels).most_common(1)[0][1] / len(labels)])
    for rate in (2e-3, 1e-2):
        show(f"head only, lr {rate:g}", [best_accuracy(s, "", None, rate) for s in SEEDS])
    show("homogeneous", [best_accuracy(seed) for seed in SEEDS])
    for proxy in (hl.proxies.GradNorm(), hl.proxies.Constant()):
        show(f"dynamic {proxy.name}", [best_accuracy(seed, proxy=proxy) for seed in SEEDS])


if __name__ == "__main__":
    main()
