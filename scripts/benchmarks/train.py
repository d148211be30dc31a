"""Training, beside PEFT."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

import heterolora as hl
from benchmarks.loops import (
    GEMM,
    OURS,
    OURS_QUARTER,
    OURS_SHORTCUTS,
    PEFT_LOOP,
    PEFT_PADDED,
    PEFT_TRAINER,
    Loop,
    TrainerLoop,
    bare_step,
    engine_of,
    quarter,
    switched_on,
    trainable,
    with_peft,
)
from benchmarks.results import Table, divided, rows_of, said, spread
from benchmarks.setup import BATCH_SIZE, LORA, PADDED, SHORTCUTS, Setup
from benchmarks.subjects import Subject, large_subject, main_subject, padded, tokens_of
from benchmarks.turns import Act, now_on, take_turns
from heterolora.architectures.family import family_of
from heterolora.losses import Autocast
from heterolora.tasks.encoded import Encoded
from heterolora.training.precision import autocast_for


def gemm(subject: Subject, setup: Setup) -> Act:
    """Matrix products of a batch's real tokens with weights as the model has; GFLOP/s."""
    d = subject.model.config.hidden_size
    tokens = round(tokens_of(subject.split) / len(subject.split) * BATCH_SIZE)
    dtype = torch.bfloat16 if setup.precision == "bf16" else torch.float32
    shapes = ((d, 4 * d), (4 * d, d), (d, d))
    options: dict[str, Any] = {"device": setup.device, "dtype": dtype}
    pairs = [
        (torch.randn(tokens, d_in, **options), torch.randn(d_out, d_in, **options).t())
        for d_in, d_out in shapes
    ]
    flops = sum(2 * tokens * d_in * d_out for d_in, d_out in shapes)

    def once() -> None:
        for x, w in pairs:
            torch.mm(x, w)

    def rate() -> float:
        begun = ended = now_on(setup.device)
        count = 0
        while ended - begun < 0.2:
            for _ in range(10):
                once()
            count += 10
            ended = now_on(setup.device)
        gigaflops: float = flops * count / (ended - begun) / 1e9
        return gigaflops

    return Act(GEMM, rate, once)


def trainers(subject: Subject, setup: Setup, names: Sequence[str]) -> list[Loop | TrainerLoop]:
    """The competitors of that name, each with a model of its own on the same frozen weights."""

    def peft(name: str, split: Encoded, autocast: Autocast) -> Loop:
        model = with_peft(subject.copy())
        return Loop(name, bare_step(model, autocast), split, lambda: trainable(model))

    def ours(name: str, shortcuts: Mapping[str, int] | None = None, part: bool = False) -> Loop:
        adapters = hl.adapt(subject.copy(), LORA, shortcuts)
        if part:
            adapters.apply(quarter(adapters))
        engine = engine_of(adapters, setup.autocast)
        return Loop(name, engine.step, subject.split, lambda: switched_on(adapters))

    def long() -> Loop:
        positions = family_of(subject.model).positions(subject.model.config)
        few = subject.first(setup.size.padded_steps * BATCH_SIZE).split
        fp32 = autocast_for("fp32", setup.device)
        return peft(PEFT_PADDED, padded(few, min(PADDED, positions)), fp32)

    makers: dict[str, Callable[[], Loop | TrainerLoop]] = {
        PEFT_TRAINER: lambda: TrainerLoop(with_peft(subject.copy()), subject, setup),
        PEFT_LOOP: lambda: peft(PEFT_LOOP, subject.split, setup.autocast),
        PEFT_PADDED: long,
        OURS: lambda: ours(OURS),
        OURS_SHORTCUTS: lambda: ours(OURS_SHORTCUTS, SHORTCUTS),
        OURS_QUARTER: lambda: ours(OURS_QUARTER, part=True),
    }
    return [makers[name]() for name in names]


def check_same_size(competitors: Iterable[Loop | TrainerLoop]) -> None:
    """See that PEFT's bare loop and the library train equally many parameters.

    Raises:
        RuntimeError: if not.
    """
    counts = {
        loop.name: sum(parameter.numel() for parameter in loop.trained())
        for loop in competitors
        if isinstance(loop, Loop) and loop.name in (PEFT_LOOP, OURS)
    }
    if len(set(counts.values())) > 1:
        raise RuntimeError(f"not the same numbers of trained parameters: {counts}")


def training_table(
    subject: Subject, setup: Setup, names: Sequence[str], title: str, seconds: float
) -> Table:
    """Examples a second of each competitor, and what of the machine's rate that is."""
    competitors = trainers(subject, setup, names)
    check_same_size(competitors)
    measured = take_turns([*competitors, gemm(subject, setup)], setup.size, seconds)
    rates = measured.pop(GEMM)
    for name, values in measured.items():
        few = setup.size.padded_steps * BATCH_SIZE
        count = min(few, len(subject.split)) if name == PEFT_PADDED else len(subject.split)
        measured[name] = [count / value for value in values]
    rows = rows_of(measured, (PEFT_TRAINER, PEFT_LOOP, OURS))
    for row in rows:
        reached = [value * subject.flops_per_example / 1e9 for value in row.values]
        share = statistics.median(divided(reached, rates))
        row.facts = {"GFLOP/s": statistics.median(reached), "of matrix products, %": 100 * share}
    notes = [f"Matrix products of a batch's shapes alone: {said(rates)} GFLOP/s."]
    for row in rows:
        if row.name in (OURS_SHORTCUTS, OURS_QUARTER) and OURS in row.ratios:
            percent = [100 * ratio for ratio in row.ratios[OURS]]
            notes.append(f"{row.name}: {said(percent)} % of the speed of {OURS}.")
    facts = {
        "gemm_gflops": spread(rates),
        "flops_per_example": subject.flops_per_example,
        "tokens_per_example": tokens_of(subject.split) / len(subject.split),
        "precision": setup.precision,
    }
    return Table(f"Training, {subject.title}, {title}", "examples/s", rows, notes, facts)


def train(setup: Setup) -> Iterator[Table]:
    """Training steps, beside PEFT's."""
    ours = (OURS, OURS_SHORTCUTS, OURS_QUARTER)
    examples = setup.size.steps * BATCH_SIZE
    every = (PEFT_TRAINER, PEFT_LOOP, PEFT_PADDED, *ours)
    subject = main_subject(setup, examples)
    yield training_table(subject, setup, every, "dropout as configured", 140)
    subject = main_subject(setup, examples, dropout=False)
    yield training_table(subject, setup, (PEFT_TRAINER, PEFT_LOOP, *ours), "dropout 0", 60)
    subject = large_subject(setup, setup.size.large_steps * BATCH_SIZE)
    names = every if setup.size.large_all else (PEFT_LOOP, *ours)
    yield training_table(subject, setup, names, "dropout as configured", 130)
