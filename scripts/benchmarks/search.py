"""Searches, beside training."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import heterolora as hl
from benchmarks.loops import Loop, engine_of, switched_on
from benchmarks.results import Table, rows_of, short
from benchmarks.setup import BATCH_SIZE, LORA, Setup
from benchmarks.subjects import Subject, main_subject
from benchmarks.turns import Act, Competitor, now_on, take_turns

MRPC_EXAMPLES, SEARCHES_PER_EPOCH = 3668, 5

TRAINING = "training"
OBSERVED = "training, observed"


def search(setup: Setup) -> Iterator[Table]:
    """A search, beside the training steps over as many examples."""
    subject = main_subject(setup, setup.size.scored)
    yield search_table(subject, setup)
    yield running_table(subject, setup)


def gradnorm(setup: Setup, **settings: Any) -> hl.proxies.GradNorm:
    """GRAD-NORM on as many examples as are scored."""
    batches = setup.size.scored // BATCH_SIZE
    return hl.proxies.GradNorm(num_batches=batches, batch_size=BATCH_SIZE, **settings)


def search_table(subject: Subject, setup: Setup) -> Table:
    """Seconds of a search by the size of its micro-batches, and of training in between."""
    adapters = hl.adapt(subject.copy(), LORA)
    pools = [hl.Pool(frozenset(adapters), max(1, adapters.count // 4))]
    engine = engine_of(adapters, setup.autocast)

    def searching(micro: int) -> Act:
        proxy = gradnorm(setup, micro_batch_size=micro)
        made = hl.Search(
            adapters, proxy, subject.split, pools, loss=hl.default_loss, autocast=setup.autocast
        )
        few = list(subject.split.in_order(micro, micro))

        def act() -> float:
            begun = now_on(setup.device)
            found = made()
            seconds = now_on(setup.device) - begun
            scores = list(found["scores"].values())
            if not all(map(math.isfinite, scores)) or not any(scores):
                raise RuntimeError(f"the scores are {scores}")
            return seconds

        return Act(
            f"search, micro-batches of {micro}",
            act,
            lambda: proxy.scores(adapters, few, hl.default_loss, setup.autocast),
        )

    loop = Loop(TRAINING, engine.step, subject.split, lambda: switched_on(adapters))
    competitors: list[Competitor] = [loop, *map(searching, setup.size.micro_batches)]
    measured = take_turns(competitors, setup.size, 150)
    rows = rows_of(measured, (TRAINING,))
    epoch = MRPC_EXAMPLES / setup.size.scored
    for row in rows:
        if row.name != TRAINING:
            share = SEARCHES_PER_EPOCH * statistics.median(row.ratios[TRAINING]) / epoch
            row.facts[f"{SEARCHES_PER_EPOCH} a MRPC epoch, % of its training"] = 100 * share
    notes = [
        f"All over the first {setup.size.scored} examples. Training is in batches of {BATCH_SIZE}, "
        "with the quarter of the sites on that a search has chosen."
    ]
    return Table(f"Search by GRAD-NORM, {subject.title}", "seconds", rows, notes)


def running_table(subject: Subject, setup: Setup) -> Table:
    """What it costs to score while training, and how far those scores agree with a probe's."""
    observer = gradnorm(setup, source="running").observer()
    assert observer is not None

    def loop(name: str, observers: Sequence[Any]) -> tuple[Loop, hl.Adapters]:
        adapters = hl.adapt(subject.copy(), LORA)
        engine = engine_of(adapters, setup.autocast, observers=observers)
        return Loop(name, engine.step, subject.split, lambda: switched_on(adapters)), adapters

    plain, _ = loop(TRAINING, ())
    observed, adapters = loop(OBSERVED, (observer.observe,))
    measured = take_turns([plain, observed], setup.size, 60)
    rows = rows_of(measured, (TRAINING,))
    probe = gradnorm(setup)
    batches = probe.sample(subject.split)
    expected = probe.scores(adapters, batches, hl.default_loss, setup.autocast)
    found = observer.scores(adapters)
    facts = agreement(found, expected)
    notes = [
        f"Scores of the running proxy and of a probe: Spearman {short(facts['spearman'])}, "
        f"{short(100 * facts['top_quarter'])} % of the top quarter in common."
    ]
    return Table(f"Scores from training, {subject.title}", "seconds", rows, notes, dict(facts))


def agreement(
    found: Mapping[hl.Site, float], expected: Mapping[hl.Site, float]
) -> dict[str, float]:
    """Spearman's correlation of two scores, and what part of their top quarters is the same."""
    from scipy.stats import spearmanr

    sites = list(expected)
    correlation = spearmanr([found[s] for s in sites], [expected[s] for s in sites]).statistic
    count = max(1, len(sites) // 4)
    tops = [set(sorted(sites, key=scores.__getitem__)[-count:]) for scores in (found, expected)]
    return {"spearman": float(correlation), "top_quarter": len(tops[0] & tops[1]) / count}
