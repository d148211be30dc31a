"""Several runs at once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor

import heterolora as hl
from benchmarks.loops import check_gradients, check_losses, engine_of, switched_on
from benchmarks.results import Table, rows_of
from benchmarks.setup import BATCH_SIZE, LORA, Setup
from benchmarks.subjects import Subject, large_subject, padding_tokenizer, random_split
from benchmarks.turns import Act, now_on, take_turns
from heterolora.training.engines.packed import PackedEngine


def packed(setup: Setup) -> Iterator[Table]:
    """Several runs at once, beside one after another."""
    subject = packed_subject(setup)
    for runs in setup.size.runs:
        yield packed_table(subject, setup, runs)


def packed_subject(setup: Setup) -> Subject:
    """OPT-350M's shape on a GPU, and the embedded model otherwise, which is a tiny OPT."""
    examples = setup.size.packed_steps * BATCH_SIZE * max(setup.size.runs)
    if setup.device.type != "cpu":
        return large_subject(setup, examples)
    from heterolora.harness.config.embedded import MODELS, STARTER

    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        MODELS[STARTER], num_labels=2, dtype=torch.float32
    ).to(setup.device)
    split = random_split(model.config, examples, setup.device)
    return Subject("embedded OPT", model, padding_tokenizer(model.config), split)


def packed_table(subject: Subject, setup: Setup, runs: int) -> Table:
    """Steps of all runs in one second: each by itself, and all at once."""
    steps = setup.size.packed_steps
    order = list(subject.split.in_order(BATCH_SIZE, steps * runs * BATCH_SIZE))
    turns = [order[step * runs : (step + 1) * runs] for step in range(steps)]

    def members() -> list[hl.LocalEngine]:
        return [
            engine_of(hl.adapt(subject.copy(), LORA, seed=seed), setup.autocast)
            for seed in range(runs)
        ]

    solo, together = members(), members()
    engine = PackedEngine(together)

    def timed(name: str, owners: Sequence[hl.LocalEngine], step: Callable[[Any], Any]) -> Act:
        def act() -> float:
            begun = now_on(setup.device)
            losses = [float(loss) for batches in turns for loss in step(batches)]
            seconds = now_on(setup.device) - begun
            check_losses(name, losses)
            for owner in owners:
                check_gradients(name, switched_on(owner.adapters))
            return seconds

        return Act(name, act, lambda: step(turns[0]))

    def one_by_one(batches: Sequence[Any]) -> list[Tensor]:
        return [member.step(batch) for member, batch in zip(solo, batches, strict=True)]

    alone = f"{runs} runs, one after another"
    competitors = [
        timed(alone, solo, one_by_one),
        timed(f"{runs} runs, packed", together, engine.step),
    ]
    measured = take_turns(competitors, setup.size, 25)
    for name, values in measured.items():
        measured[name] = [steps * runs / value for value in values]
    rows = rows_of(measured, (alone,))
    return Table(f"{runs} runs, {subject.title}", "steps/s", rows)
