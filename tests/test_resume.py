"""A run that is killed and started again ends as one that never was: to the bit."""

import functools
import json
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import children
import pytest
from conftest import composed
from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open
from transformers import AutoConfig

from heterolora.tracking.record import read_rows, read_run

KILLS = 32
EVERY_STEP = "checkpoint.every_minutes=1e-9"


@pytest.fixture(autouse=True, scope="module")
def _server() -> Iterator[None]:
    with children.server():
        yield


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
        return self.output.with_name("log")

    @property
    def directory(self) -> Path:
        (file,) = self.output.rglob("config.yaml")
        return file.parent

    def start(self, *more: str, fate: children.Fate | None = None) -> Any:
        changes = OmegaConf.from_dotlist([f"output={self.output}", *more])
        return children.start(OmegaConf.merge(self.cfg, changes), self.log, fate)

    def run(self, *more: str, fate: children.Fate | None = None) -> int:
        return children.finish(self.start(*more, fate=fate))

    def at(self, output: Path) -> "Command":
        """The same with nothing done yet."""
        shutil.rmtree(output, ignore_errors=True)
        return Command(self.cfg, output, self.events, self.seconds, self.reference)

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


VARIANTS = {
    "gradnorm": ["proxy=gradnorm", "proxy.num_batches=2"],
    "constant": ["proxy=constant"],
    "shortcuts": [
        *("search_space=lora_shortcuts", "rank_budget=l2_s11", "proxy=snip", "proxy.num_batches=2"),
        "optimizer.learning_rate=0.01",
    ],
}


@pytest.fixture(scope="module")
def commands(checkpoints, pairs, tmp_path_factory) -> dict[str, Command]:
    """For each variant the command, run once without any interruption, as people would."""
    model = checkpoints["opt-post-norm"]
    assert AutoConfig.from_pretrained(model).dropout == 0.1  # else its generator would not count
    made = {}
    for name, overrides in VARIANTS.items():
        output = tmp_path_factory.mktemp(name) / "outputs"
        cfg = composed(
            *(f"model.path={model}", "task=rte", f"task.path={pairs}"),
            *("tracking=local", "device=cpu", "training.log_every=3"),
            *("training.epochs=3", "training.batch_size=8", *overrides),
        )
        command = made[name] = Command(cfg, output)
        assert command.run() == 0, command.log.read_text()
        command.reference = command.outcome()
        counted = command.output.with_name("events")
        repeated = command.at(output)
        begun = time.monotonic()
        count = functools.partial(children.at_file, 0, "outputs", counted)
        assert repeated.run(EVERY_STEP, fate=count) == 0
        command.seconds = time.monotonic() - begun
        command.events = int(counted.read_text())
        # That saving changes nothing is the first thing that resuming needs.
        assert repeated.outcome() == command.reference
    return made


def killed(command: Command, kind: str, rng: random.Random) -> int:
    """Run until a SIGKILL of that kind; the exit code."""
    minutes = f"checkpoint.every_minutes={rng.choice(['10', '0.002', '1e-9'])}"
    if kind == "in a step":
        return command.run(minutes, fate=functools.partial(children.in_step, rng.randint(1, 24)))
    if kind == "in a search":
        return command.run(minutes, fate=functools.partial(children.in_search, rng.randint(1, 12)))
    if kind == "at a file":
        count = rng.randint(1, command.events)
        fate = functools.partial(children.at_file, count, "outputs")
        return command.run(EVERY_STEP, fate=fate)
    assert kind == "at any time"
    process = command.start(EVERY_STEP)
    time.sleep(rng.uniform(0.3, 1) * command.seconds)
    process.kill()
    return children.finish(process)


def test_killed_at_any_moment_and_resumed_it_is_the_same_run(commands, tmp_path) -> None:
    rng = random.Random(20240614)
    kinds = ["in a step", "in a search", "at a file", "at a file", "at any time"]
    seen: dict[str, int] = {}
    for index in range(KILLS):
        kind = kinds[index % len(kinds)]
        command = commands[rng.choice(list(commands))].at(tmp_path / "outputs")
        code = killed(command, kind, rng)
        assert code == -signal.SIGKILL or kind == "at any time"
        folders = sorted(path.name for path in command.output.rglob("*step-*"))
        state = "saving" if any(name.startswith(".") for name in folders) else bool(folders)
        said = f"kill {index} {kind}, {folders}"
        assert command.run() == 0, f"{said}: {command.log.read_text()}"
        assert command.outcome() == command.reference, said
        assert ("resumed at step" in command.log.read_text()) == any(
            not name.startswith(".") for name in folders
        ) or code == 0
        key = f"{kind}, {state}"
        seen[key] = seen.get(key, 0) + 1
    assert sum(seen.values()) >= 30
    assert any(key.endswith("saving") for key in seen)


def test_killed_again_and_again_it_gets_there(commands, tmp_path) -> None:
    command = commands["gradnorm"].at(tmp_path / "outputs")
    kills = 0
    while (code := command.run(EVERY_STEP, fate=functools.partial(children.in_step, 5))) != 0:
        assert code == -signal.SIGKILL
        kills += 1
    assert kills == 24 // 4 - (24 % 4 == 0)  # each gets four steps on; the fifth is lost
    assert command.outcome() == command.reference
    resumed = json.loads((command.directory / "provenance.json").read_text())["resumed"]
    assert [entry["step"] for entry in resumed] == [4, 8, 12, 16, 20]
    assert all(set(entry) == {"step", "code"} for entry in resumed)
