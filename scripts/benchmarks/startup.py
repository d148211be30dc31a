"""Starting the command line."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.results import Table, rows_of
from benchmarks.setup import ROOT, Setup
from benchmarks.turns import Act, take_turns


def startup(setup: Setup) -> Iterator[Table]:
    """The command line, in processes of their own."""
    acts = [
        Act("train.py --help", lambda: command_seconds("--help")),
        Act("a misspelt override", lambda: command_seconds("strategi=static", code=2)),
        Act("a refused value", lambda: command_seconds("optimizer.learning_rate=-1", code=2)),
        Act("import torch", lambda: python_seconds("-c", "import torch")),
    ]
    if not setup.size.tiny:
        acts.append(Act("the first step of the default run", first_step_seconds))
    size = replace(setup.size, rounds=min(3, setup.size.rounds))
    rows = rows_of(take_turns(acts, size, 70), ())
    yield Table("Starting up", "seconds", rows)


def command_seconds(*overrides: str, code: int = 0) -> float:
    """How long `train.py` takes to say something and leave.

    Raises:
        RuntimeError: if it does not leave with `code`.
    """
    return python_seconds(str(ROOT / "train.py"), *overrides, code=code)


def python_seconds(*arguments: str, code: int = 0) -> float:
    """How long a Python process takes from its start to its end.

    Raises:
        RuntimeError: if it does not leave with `code`.
    """
    begun = time.perf_counter()
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    if done.returncode != code:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}: {done.stderr[-2000:]}")
    return seconds


def first_step_seconds() -> float:
    """How long the default run takes until its first training step is recorded.

    Raises:
        RuntimeError: if it ends before.
    """
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "tracking=local",
            f"output={folder}",
            "training.epochs=1",
            "training.log_every=1",
        ]
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *overrides],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            while not any(file.stat().st_size for file in Path(folder).rglob("metrics.jsonl")):
                if process.poll() is not None:
                    assert process.stderr is not None
                    raise RuntimeError(f"the default run ended: {process.stderr.read()[-2000:]}")
                time.sleep(0.01)
            return time.perf_counter() - begun
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
