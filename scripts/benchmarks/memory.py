"""The peak of memory of a training step."""

import gc
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import heterolora as hl
from benchmarks.loops import (
    OURS,
    PEFT_LOOP,
    Loop,
    bare_step,
    engine_of,
    switched_on,
    trainable,
    with_peft,
)
from benchmarks.results import Table, rows_of
from benchmarks.setup import BATCH_SIZE, LORA, ROOT, SHORTCUTS, Setup
from benchmarks.subjects import mrpc_lengths, opt_350m_shape, random_model, random_split
from benchmarks.turns import Act, take_turns
from heterolora.architectures.family import head_of
from heterolora.losses import Autocast
from heterolora.tasks.encoded import Encoded
from heterolora.training.memory import forget_peak, peak_memory

MEBIBYTE = 2**20

PLAIN_HEAD = "plain model, its head"
WIRED_OFF = "this library, every site off, its head"
REAL = "real"
MEMORY_KINDS = {"peft": PEFT_LOOP, "ours": OURS, "plain": PLAIN_HEAD, "off": WIRED_OFF}


def memory(setup: Setup) -> Iterator[Table]:
    """The peak of two training steps above the loaded model, in processes of their own."""
    fixed = str(setup.size.memory_tokens)
    yield memory_table(setup, fixed, ("peft", "ours"), f"8 x {fixed} tokens")
    yield memory_table(setup, fixed, ("plain", "off"), f"the head alone, 8 x {fixed} tokens")
    if not setup.size.tiny:
        yield memory_table(setup, REAL, ("peft", "ours"), "8 examples as long as MRPC's")


def memory_table(setup: Setup, lengths: str, kinds: Sequence[str], title: str) -> Table:
    """One setting; the ratio is to the first."""

    def measuring(kind: str) -> Act:
        return Act(MEMORY_KINDS[kind], lambda: memory_in_process(setup, kind, lengths))

    size = replace(setup.size, rounds=1 if setup.device.type == "cpu" else 2)
    measured = take_turns(list(map(measuring, kinds)), size, 60)
    return Table(
        f"Memory above the model, OPT-350M's shape, {title}",
        "MiB",
        rows_of(measured, (MEMORY_KINDS[kinds[0]],)),
    )


def memory_in_process(setup: Setup, kind: str, lengths: str) -> float:
    """What `memory_here` finds in a process of its own.

    Raises:
        RuntimeError: if it fails.
    """
    script = str(ROOT / "scripts" / "bench.py")
    command = [sys.executable, script, "memory", *setup.options, "--alone", kind, lengths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"memory of {kind}: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["mebibytes"])


def memory_here(setup: Setup, kind: str, lengths: str) -> float:
    """Mebibytes at the peak of two steps, above what the process had when the model was loaded."""
    if kind == "peft":
        import peft  # noqa: F401

    config = opt_350m_shape(setup.size.tiny)
    model = random_model(config, setup.device)
    count = mrpc_lengths(BATCH_SIZE) if lengths == REAL else [int(lengths)] * BATCH_SIZE
    split = random_split(config, BATCH_SIZE, setup.device, count)
    gc.collect()
    forget_peak(setup.device)
    before = peak_memory(setup.device)
    loop = memory_loop(kind, model, split, setup.autocast)
    for _ in range(2):
        loop.run()
    peak = peak_memory(setup.device)
    loop.check()
    return float(peak - before) / MEBIBYTE


def memory_loop(kind: str, model: Any, split: Encoded, autocast: Autocast) -> Loop:
    """What trains a model, in one of the ways whose memory is measured."""
    if kind == "peft":
        model = with_peft(model)
    if kind == "plain":
        head = head_of(model)
        model.requires_grad_(False)
        for parameter in head:
            parameter.requires_grad_(True)
    if kind in ("peft", "plain"):
        return Loop(kind, bare_step(model, autocast), split, lambda: trainable(model))
    if kind == "off":
        adapters = hl.adapt(model, LORA, SHORTCUTS, renormalize="enabled")
        adapters.apply({})
    else:
        adapters = hl.adapt(model, LORA)
    return Loop(kind, engine_of(adapters, autocast).step, split, lambda: switched_on(adapters))
