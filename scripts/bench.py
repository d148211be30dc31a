"""Measure how fast the library is, compared with what one would use without it.

python scripts/bench.py all                        # everything: 15 minutes on two cores, 9 on a GPU
python scripts/bench.py train --model PATH --data shared/glue/mrpc
python scripts/bench.py search --output outputs/bench

Commands: train, search, packed, startup, memory, all. It uses the GPU if there is one. All
competitors of a table take turns, round by round, and a ratio is the median of the ratios within
rounds. Results go to OUTPUT/COMMAND.json and OUTPUT/COMMAND.png; docs/speed.md explains them.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from benchmarks.memory import memory, memory_here
from benchmarks.packed import packed
from benchmarks.results import Report, Table, show
from benchmarks.search import search
from benchmarks.setup import ON_CPU, ON_GPU, QUICK, Setup
from benchmarks.startup import startup
from benchmarks.train import train
from rich.console import Console

import heterolora as hl
from heterolora.training.precision import resolve_device, resolve_precision


def machine(setup: Setup) -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    told: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        pairs = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        told = {key.strip(): value.strip() for key, _, value in pairs}
    gpu = torch.cuda.get_device_name(setup.device) if setup.device.type == "cuda" else None
    return {
        "cpu": told.get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "gpu": gpu,
        "device": setup.device.type,
        "precision": setup.precision,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft", "accelerate")},
        "heterolora": hl.__version__,
    }


def version(package: str) -> str | None:
    """Of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


COMMANDS: dict[str, Callable[[Setup], Iterator[Table]]] = {
    "train": train,
    "search": search,
    "packed": packed,
    "startup": startup,
    "memory": memory,
}


def measure(command: str, setup: Setup, folder: Path) -> int:
    """Run one command or all, print and write; 1 if nothing could be measured.

    A command that needs a package or a part of the library that is not there is skipped.
    """
    console = Console(width=None if sys.stdout.isatty() else 160)
    report = Report(machine(setup), command, folder)
    said = (f"{key} {value}" for key, value in report.machine.items() if value is not None)
    console.print(", ".join(said), highlight=False)
    for name in COMMANDS if command == "all" else [command]:
        begun = time.monotonic()
        skipped = None
        report.begin(name)
        try:
            for table in COMMANDS[name](setup):
                show(table, console)
                report.add(name, table)
        except ImportError as error:
            skipped = str(error)
        seconds = time.monotonic() - begun
        console.print(f"{name}: {f'skipped: {skipped}' if skipped else f'{seconds:.0f} s'}\n")
        report.end(name, seconds, skipped)
    console.print(f"written: {folder / command}.json")
    return 0 if report.tables else 1


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    assert __doc__ is not None
    summary, rest = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=[*COMMANDS, "all"])
    parser.add_argument("--model", type=Path, help="a checkpoint's folder; default: MiniLM's shape")
    parser.add_argument("--data", type=Path, help="a folder with MRPC's parquet, with --model")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--precision", default="auto", help="auto, fp32, bf16")
    parser.add_argument("--rounds", type=int, help="the most rounds of a table")
    parser.add_argument("--quick", action="store_true", help="tiny models, to see that it works")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.data is not None and chosen.model is None:
        parser.error("--data needs --model, a folder with a tokenizer")
    return chosen


def setup_of(chosen: argparse.Namespace) -> Setup:
    """What the command line asks for, on this machine."""
    device = resolve_device(chosen.device)
    size = QUICK if chosen.quick else ON_CPU if device.type == "cpu" else ON_GPU
    if chosen.rounds is not None:
        size = replace(size, rounds=chosen.rounds)
    options = ["--device", chosen.device, "--precision", chosen.precision]
    return Setup(
        device=device,
        precision=resolve_precision(chosen.precision, device),
        size=size,
        model=chosen.model,
        data=chosen.data,
        options=(*options, *(["--quick"] if chosen.quick else [])),
    )


def main(arguments: Sequence[str]) -> int:
    """Measure, or be one of the processes whose memory is measured."""
    chosen = parsed(arguments)
    setup = setup_of(chosen)
    if chosen.alone:
        print(json.dumps({"mebibytes": memory_here(setup, *chosen.alone)}))
        return 0
    return measure(chosen.command, setup, chosen.output)


def be_quiet() -> None:
    """What transformers has to say of heads drawn at random, and of what PEFT calls, is no news."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)


if __name__ == "__main__":
    be_quiet()
    sys.exit(main(sys.argv[1:]))
