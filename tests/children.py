"""Runs in processes of their own, to be killed: forked from one that has imported everything."""

import contextlib
import functools
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open

from heterolora.harness.cli import train as command
from heterolora.harness.records.record import read_rows, read_run
from heterolora.strategies import search
from heterolora.training.trainer import Trainer

ROOT = Path(__file__).parents[1]
Fate = Callable[[], None]
"""Called in the child before its run; arranges what will happen to it."""

_CONTEXT = multiprocessing.get_context("forkserver")


@contextmanager
def server() -> Iterator[None]:
    """Have the next children come from a process that has done `warm`."""
    before = dict(os.environ)
    os.environ |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    _CONTEXT.set_forkserver_preload(["warm"])
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def start(cfg: DictConfig, log: Path, fate: Fate | None = None) -> ForkServerProcess:
    """`python train.py ...`, all of it but Hydra's composing; what it prints goes to `log`."""
    process = _CONTEXT.Process(target=_main, args=(cfg, log, fate))
    process.start()
    return process


def alone(act: Fate) -> int:
    """Have a process of its own do just that; its exit code, or minus what killed it."""
    process = _CONTEXT.Process(target=act)
    process.start()
    return finish(process)


def finish(process: ForkServerProcess) -> int:
    """Wait for its end; the exit code, or minus the signal that killed it."""
    process.join(120)
    assert process.exitcode is not None, "hangs"
    return process.exitcode


def _main(cfg: DictConfig, log: Path, fate: Fate | None) -> None:
    with log.open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    torch.set_num_threads(1)
    # As in the foreground, also where the tests run in the background and ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if fate is not None:
        fate()
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    sys.exit(command.report_errors(lambda: command.single(cfg)))


@dataclass
class Command:
    """A command of a variant, its output folder, and what it leaves when nothing happens to it."""

    cfg: DictConfig
    output: Path
    events: int = 0
    seconds: float = 0.0
    reference: dict[str, Any] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """Beside the output, so that a full disk does not silence it."""
        return self.output.parent.with_suffix(".log")

    @property
    def directory(self) -> Path:
        (file,) = self.output.rglob("config.yaml")
        return file.parent

    def start(self, *more: str, fate: Fate | None = None) -> ForkServerProcess:
        changes = OmegaConf.from_dotlist([f"output={self.output}", *more])
        return start(OmegaConf.merge(self.cfg, changes), self.log, fate)

    def run(self, *more: str, fate: Fate | None = None) -> int:
        return finish(self.start(*more, fate=fate))

    def at(self, output: Path) -> "Command":
        """The same with nothing done yet."""
        shutil.rmtree(output, ignore_errors=True)
        return Command(self.cfg, output, self.events, self.seconds, self.reference)

    def copied(self, output: Path) -> "Command":
        """The same with all that has been done so far, in another place."""
        other = self.at(output)
        shutil.copytree(self.output, output)
        return other

    def outcome(self) -> dict[str, Any]:
        """All that a repetition gives again."""
        directory = self.directory
        searches = read_rows(directory / "allocations.jsonl")
        for row in searches:
            del row["seconds"]
        run = read_run(directory)
        assert run is not None
        del run["seconds"], run["peak_memory_bytes"]
        weights = {file.name: content(file) for file in directory.glob("checkpoint/*")}
        names = {file.name for file in directory.iterdir()}
        names -= {"code.diff"}  # which depends on whoever edits the source at the moment
        return {
            "metrics": (directory / "metrics.jsonl").read_text(),
            "searches": searches,
            "run": run,
            "names": names,
            **weights,
        }


def content(file: Path) -> tuple[object, dict[str, bytes]]:
    """Metadata (whose order in the file is any) and tensors."""
    with safe_open(file, "np") as stream:
        names = stream.keys()
        return stream.metadata(), {name: stream.get_tensor(name).tobytes() for name in names}


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def at_step(count: int, act: Callable[[], object]) -> None:
    """Something that happens in the `count`th optimizer step that this process makes."""
    record, left = Trainer.record, iter(range(count - 1, -1, -1))

    def struck(self: Trainer, loss: torch.Tensor) -> None:
        if next(left, None) == 0:
            act()
        record(self, loss)

    Trainer.record = struck


def in_step(count: int, number: int = signal.SIGKILL, times: int = 1) -> None:
    """A signal in the `count`th optimizer step that this process makes."""
    at_step(count, lambda: [send(number) for _ in range(times)])


def ignored_in_step(count: int) -> None:
    """Ctrl-C in a step of a run in the background, where the shell has SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    in_step(count, signal.SIGINT)


def requeued_in_step(count: int, code: int | None) -> None:
    """SIGUSR2 in a step, under a handler as submitit's: it leaves with `code`, or returns."""

    def handler(number: int, frame: object) -> None:
        if code is not None:
            sys.exit(code)

    signal.signal(signal.SIGUSR2, handler)
    in_step(count, signal.SIGUSR2)


def limit_files_in_step(count: int, size: int) -> None:
    """From the `count`th step on, no file can be written beyond `size` bytes."""
    at_step(count, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))


def limit_handles_in_step(count: int) -> None:
    """From the `count`th step on, no further file can be opened."""

    def limit() -> None:
        highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        with contextlib.suppress(OSError):
            while True:
                os.dup(0)  # what is free below it

    at_step(count, limit)


def exhaust_memory_in_step(count: int) -> None:
    """In the `count`th step the process wants more memory than it may have."""

    def exhaust() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        have = pages * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (have, have))
        torch.ones(2**28)

    at_step(count, exhaust)


def fill_disk_in_step(count: int, ballast: Path) -> None:
    """In the `count`th step someone takes the rest of the disk."""

    def fill() -> None:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))

    at_step(count, fill)


def in_search(count: int, number: int = signal.SIGKILL) -> None:
    """A signal in the `count`th search, after scoring and before anything is switched."""
    select, left = search.select_pools, iter(range(count - 1, -1, -1))

    @functools.wraps(select)
    def struck(*arguments):
        if next(left, None) == 0:
            send(number)
        return select(*arguments)

    search.select_pools = struck


def in_evaluation(count: int, number: int = signal.SIGKILL) -> None:
    """A signal in the `count`th evaluation."""
    evaluate, left = Trainer.evaluate, iter(range(count - 1, -1, -1))

    def struck(self: Trainer) -> dict[str, float]:
        if next(left, None) == 0:
            send(number)
        return evaluate(self)

    Trainer.evaluate = struck


WRITING = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def at_file(count: int, below: str, counted: Path | None = None) -> None:
    """SIGKILL just before the `count`th time that a file below is written, renamed or removed.

    Files are below if `below` is part of their path. The interpreter's own audit events tell.
    `counted` gets how many there have been.
    """
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in WRITING or below not in str(arguments[0]):
            return
        if event == "open" and not int(str(arguments[2])) & (os.O_WRONLY | os.O_RDWR):
            return
        seen += 1
        if counted is not None:
            with os.fdopen(os.open(counted, os.O_WRONLY | os.O_CREAT), "w") as stream:
                stream.write(str(seen))
        if seen == count:
            send(signal.SIGKILL)

    sys.addaudithook(hook)
