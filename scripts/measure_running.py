"""Measure how well scores from training batches agree with those of a sample, and their cost.

python scripts/measure_running.py                    # 10 minutes on a core
python scripts/measure_running.py --proxy snip --seed 13

The embedded model on the embedded task, as `scripts/measure_starter.py` trains them, with
`source="running"`. At every search but the first, which has no batches yet, the sample is scored
too: the Spearman correlation of the two, and how many of the sites switched on are the same. Then
observed steps take turns with others on the same batches, with a random quarter of the sites on.
"""

import argparse
import random
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

from measure_starter import BATCH_SIZE, EPOCHS, LEARNING_RATE, RANK, SITES_ON, TASK, adapted
from scipy.stats import spearmanr

import heterolora as hl

PROXIES = {"gradnorm": hl.proxies.GradNorm, "snip": hl.proxies.Snip}
CAPACITY = RANK * SITES_ON
STEPS = 200
"""Of each kind, timed."""


@dataclass
class Compared(hl.Search):
    """A search that scores the sample as well, and keeps both."""

    probe: hl.proxies.Proxy = field(default_factory=hl.proxies.GradNorm)
    pairs: list[tuple[list[float], list[float]]] = field(default_factory=list)

    def __call__(self, share: float = 1.0) -> dict[str, Any]:
        """Search by the training batches."""
        sampled = self.probe.scores(self.adapters, self.probe.sample(self.examples), self.loss)
        made = super().__call__(share)
        if made["observed"]:
            self.pairs.append(([*made["scores"].values()], [*sampled.values()]))
        return made


def common(pair: tuple[list[float], list[float]]) -> int:
    """How many of the sites that go on are the same."""
    count = len(pair[0]) // SITES_ON
    tops = [sorted(range(len(one)), key=one.__getitem__)[-count:] for one in pair]
    return len(set(tops[0]) & set(tops[1]))


def agreement(name: str, seed: int) -> None:
    """Train, and print how far the scores agree."""
    adapters, train, validation = adapted(seed, CAPACITY)
    running = PROXIES[name](source="running")
    pool = hl.Pool(frozenset(adapters), adapters.count // SITES_ON)
    search = Compared(adapters, running, train, [pool], loss=TASK.loss, probe=PROXIES[name]())
    assert search.observer is not None
    observer, optimizer = search.observer, hl.adamw(adapters, LEARNING_RATE)
    best = hl.Trainer(
        hl.LocalEngine(adapters, TASK, optimizer, observers=[observer.observe]),
        train,
        {"": validation},
        EPOCHS,
        BATCH_SIZE,
        seed,
        metric="accuracy",
        strategy=hl.strategies.Dynamic(),
        search=search,
    ).fit()
    assert best.best is not None
    correlations = [float(spearmanr(*pair).statistic) for pair in search.pairs]
    same = [common(pair) for pair in search.pairs]
    print(
        f"{name}, seed {seed}: {len(same)} searches, Spearman median "
        f"{statistics.median(correlations):.2f}, from {min(correlations):.2f} to "
        f"{max(correlations):.2f}; of {len(adapters) // SITES_ON} sites in common "
        f"{statistics.mean(same):.2f}, at least {min(same)}; "
        f"best accuracy {100 * best.best['accuracy']:.1f} %",
        flush=True,
    )


def cost(name: str) -> None:
    """Print what observing adds to a step, and what the sample's search takes."""
    adapters, train, _ = adapted(0, CAPACITY)
    running, probe = PROXIES[name](source="running", observe_every=1), PROXIES[name]()
    optimizer = hl.adamw(adapters, LEARNING_RATE)
    plain = hl.LocalEngine(adapters, TASK, optimizer)
    observer = running.observer()
    assert observer is not None
    observed = hl.LocalEngine(adapters, TASK, optimizer, observers=[observer.observe])
    ratios, seconds, rng = [], [], random.Random(0)
    batches = list(train.shuffled(BATCH_SIZE, 0, 0))
    for step in range(STEPS):
        if step % 10 == 0:
            on = rng.sample(adapters.sites, len(adapters) // SITES_ON)
            adapters.apply(dict.fromkeys(on, CAPACITY))
        took = {}
        for engine in (plain, observed) if step % 2 else (observed, plain):
            begun = time.perf_counter()
            engine.step(batches[step % len(batches)])
            took[engine is observed] = time.perf_counter() - begun
        ratios.append(took[True] / took[False])
        seconds.append(took[False])
    searches = []
    for _ in range(5):
        begun = time.perf_counter()
        probe.scores(adapters, probe.sample(train), TASK.loss)
        searches.append(time.perf_counter() - begun)
    search = statistics.median(searches) / statistics.median(seconds)
    added, every = statistics.median(ratios) - 1, PROXIES[name]().observe_every
    print(
        f"{name}: an observed step takes {100 * added:.0f} % longer, so that one in {every} adds "
        f"{100 * added / every:.1f} % to training; a search on the sample takes {search:.0f} steps"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--proxy", choices=[*PROXIES], default="gradnorm")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cost(options.proxy)
    agreement(options.proxy, options.seed)


if __name__ == "__main__":
    main()
