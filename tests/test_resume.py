"""A run that is killed and started again ends as one that never was: to the bit."""

import functools
import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import children
import pytest
import torch
from children import Command
from conftest import composed
from transformers import AutoConfig

from heterolora.harness.records.record import read_run
from heterolora.training.checkpoint import CheckpointManager

KILLS = 32
EVERY_STEP = "checkpoint.every_minutes=1e-9"


@pytest.fixture(autouse=True, scope="module")
def _server() -> Iterator[None]:
    with children.server():
        yield


VARIANTS = {
    "gradnorm": ["proxy=gradnorm", "proxy.num_batches=2"],
    "constant": ["proxy=constant"],
    "running": [
        *("proxy=gradnorm", "proxy.num_batches=2", "proxy.source=running"),
        "proxy.observe_every=2",
    ],
    "pruning": [*("strategy=pruning", "proxy=gradnorm", "proxy.num_batches=2")],
    "scheduled": [
        *("proxy=gradnorm", "proxy.num_batches=2", "scheduler=linear", "scheduler.warmup=0.2"),
        *("training.max_grad_norm=0.5", "training.micro_batch_size=3", "optimizer=sgd"),
    ],
    "sensitivity": [
        *("proxy=sensitivity", "proxy.num_batches=2", "proxy.observe_every=2"),
        "strategy.searches_per_epoch=2",
    ],
    "shortcuts": [
        *("search_space=lora_shortcuts", "rank_budget=l2_s11", "proxy=snip", "proxy.num_batches=2"),
        "optimizer.learning_rate=0.01",
    ],
}


EPOCHS, STEPS = 2, 16


@pytest.fixture(scope="module")
def uninterrupted(checkpoints, pairs, tmp_path_factory) -> Callable[[str], Command]:
    """The command of a variant, run once without any interruption, as people would."""
    model = checkpoints["opt-post-norm"]
    assert AutoConfig.from_pretrained(model).dropout == 0.1  # else its generator would not count

    @functools.cache
    def made(variant: str) -> Command:
        output = tmp_path_factory.mktemp(variant) / "outputs"
        cfg = composed(
            *(f"model.path={model}", "task=rte", f"task.path={pairs}"),
            *("tracking=local", "device=cpu", "training.log_every=3"),
            *(f"training.epochs={EPOCHS}", "training.batch_size=8", *VARIANTS[variant]),
        )
        command = Command(cfg, output)
        assert command.run() == 0, command.log.read_text()
        command.reference = command.outcome()
        assert command.reference["run"]["steps"] == STEPS
        return command

    return made


@pytest.fixture(scope="module")
def counted(uninterrupted, tmp_path_factory) -> Callable[[str], Command]:
    """The same, with how many files it writes and how long it takes when it saves at each step."""

    @functools.cache
    def made(variant: str) -> Command:
        command = uninterrupted(variant).at(tmp_path_factory.mktemp("counted") / "outputs")
        events = command.output.with_name("events")
        begun = time.monotonic()
        count = functools.partial(children.at_file, 0, "outputs", events)
        assert command.run(EVERY_STEP, fate=count) == 0
        command.seconds = time.monotonic() - begun
        command.events = int(events.read_text())
        # That saving changes nothing is the first thing that resuming needs.
        assert command.outcome() == command.reference
        return command

    return made


def searches(command: Command) -> int:
    """How many a whole run makes."""
    made: list[object] = command.reference["searches"]
    return len(made)


def killed(command: Command, kind: str, rng: random.Random) -> int:
    """Run until a SIGKILL of that kind; the exit code."""
    minutes = f"checkpoint.every_minutes={rng.choice(['10', '0.002', '1e-9'])}"
    if kind == "in a step":
        return command.run(minutes, fate=functools.partial(children.in_step, rng.randint(1, STEPS)))
    if kind == "in a search":
        return command.run(
            minutes, fate=functools.partial(children.in_search, rng.randint(1, searches(command)))
        )
    if kind == "at a file":
        count = rng.randint(1, command.events)
        fate = functools.partial(children.at_file, count, "outputs")
        return command.run(EVERY_STEP, fate=fate)
    assert kind == "at any time"
    process = command.start(EVERY_STEP)
    time.sleep(rng.uniform(0.3, 1) * command.seconds)
    process.kill()
    return children.finish(process)


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_it_is_the_same_run(counted, tmp_path) -> None:
    rng = random.Random(20240614)
    kinds = ["in a step", "in a search", "at a file", "at a file", "at any time"]
    seen: dict[str, int] = {}
    for index in range(KILLS):
        kind = kinds[index % len(kinds)]
        command = counted(rng.choice(list(VARIANTS))).at(tmp_path / "outputs")
        code = killed(command, kind, rng)
        assert code == -signal.SIGKILL or kind == "at any time"
        folders = sorted(path.name for path in command.output.rglob("*step-*"))
        state = "saving" if any(name.startswith(".") for name in folders) else bool(folders)
        said = f"kill {index} {kind}, {folders}"
        assert command.run() == 0, f"{said}: {command.log.read_text()}"
        assert command.outcome() == command.reference, said
        whole = any(not name.startswith(".") for name in folders)
        log = command.log.read_text()
        assert ("resumed at step" in log) == whole or "already finished" in log
        key = f"{kind}, {state}"
        seen[key] = seen.get(key, 0) + 1
    assert sum(seen.values()) >= 30
    assert any(key.endswith("saving") for key in seen)


def resumptions(command: Command) -> list[int]:
    """The steps at which it was taken up again."""
    resumed = json.loads((command.directory / "provenance.json").read_text())["resumed"]
    assert all(set(entry) == {"step", "code"} for entry in resumed)
    return [entry["step"] for entry in resumed]


KILLED: dict[str, tuple[children.Fate, int | None]] = {
    "in a step": (functools.partial(children.in_step, 4), 3),
    "in a search": (functools.partial(children.in_search, 1), None),  # at the step of that
    "while it saves its state": (functools.partial(children.at_file, 3, "step-00000006"), 5),
    "in an evaluation": (functools.partial(children.in_evaluation, 1), 7),
    "while it saves its weights": (functools.partial(children.at_file, 3, "best.safetensors"), 7),
    # Two of its files are written as it begins: opened, and renamed.
    "while it writes its result": (functools.partial(children.at_file, 4, "run.json"), 16),
}
"""By the place, what kills one process after another, and the step at which the next resumes."""


@pytest.mark.parametrize(
    "variant",
    [
        "gradnorm",
        *(pytest.param(one, marks=pytest.mark.exhaustive) for one in VARIANTS if one != "gradnorm"),
    ],
)
def test_killed_at_every_kind_of_place_it_gets_there(variant, uninterrupted, tmp_path) -> None:
    command = uninterrupted(variant).at(tmp_path / "outputs")
    for place, (fate, _) in KILLED.items():
        assert command.run(EVERY_STEP, fate=fate) == -signal.SIGKILL, place
    assert command.run(EVERY_STEP) == 0, command.log.read_text()
    rows: list[dict[str, int]] = command.reference["searches"]
    search = next(row["step"] for row in rows if row["step"] >= 3)
    assert resumptions(command) == [step or search for _, step in KILLED.values()]
    assert command.outcome() == command.reference


@pytest.mark.parametrize(
    "variant",
    [
        "sensitivity",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("pruning", "running", "scheduled")),
    ],
)
def test_killed_again_and_again_it_gets_there(variant, uninterrupted, tmp_path) -> None:
    command = uninterrupted(variant).at(tmp_path / "outputs")
    kills = 0
    while (code := command.run(EVERY_STEP, fate=functools.partial(children.in_step, 5))) != 0:
        assert code == -signal.SIGKILL
        kills += 1
    assert kills == STEPS // 4 - (STEPS % 4 == 0)  # each gets four steps on; the fifth is lost
    assert resumptions(command) == [4, 8, 12]
    assert command.outcome() == command.reference


@dataclass
class Kept:
    """Something with state."""

    step: int = 0
    weights: torch.Tensor = field(default_factory=lambda: torch.zeros(3))

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.weights = state["step"], state["weights"]


def save(folder: Path, step: int, fate: children.Fate | None = None) -> None:
    """Save the state of a step, and what is to happen meanwhile."""
    manager = CheckpointManager(folder)
    manager.stateful["kept"] = Kept(step, torch.full((3,), float(step)))
    if fate is not None:
        fate()
    manager.save(step)


def restored(folder: Path) -> int:
    """The step whose state can be restored, all of it."""
    manager = CheckpointManager(folder)
    kept = manager.stateful["kept"] = Kept()
    assert manager.load() == kept.step
    assert kept.weights.tolist() == [kept.step] * 3
    return kept.step


def test_killed_at_any_file_of_a_state_the_one_before_it_is_whole(tmp_path: Path) -> None:
    """Or the new one is, which can be saved all the same."""
    found = []
    for count in range(1, 100):
        folder = tmp_path / str(count) / "resume"
        save(folder, 1)
        save(folder, 2)
        fate = functools.partial(children.at_file, count, "resume")
        code = children.alone(functools.partial(save, folder, 3, fate))
        found.append(restored(folder))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        save(folder, 3)
        assert restored(folder) == 3
    assert found == sorted(found)
    # A folder, three files, its new name; then the oldest state is removed.
    assert found.count(2) >= 5
    assert found.count(3) >= 2


def stopped(command: Command, fate: children.Fate, code: int, step: int) -> None:
    """Stopped by a signal with that exit code at that step, and recorded as such."""
    assert command.run(fate=fate) == code, command.log.read_text()
    run = read_run(command.directory)
    assert run is not None
    assert (run["status"], run["steps"]) == ("interrupted", step)
    assert not (command.directory / ".lock").exists()


def test_signals_wait_for_the_step_and_have_their_exit_codes(uninterrupted, tmp_path) -> None:
    """One after another stops the process that goes on where the one before it has stopped."""
    command = uninterrupted("constant").at(tmp_path / "outputs")
    before = None
    for fate, code, step in (
        (functools.partial(children.in_step, 1, signal.SIGTERM), 143, 1),
        (functools.partial(children.in_step, 6, signal.SIGINT), 130, 7),
        (functools.partial(children.in_evaluation, 1, signal.SIGTERM), 143, 8),
        (functools.partial(children.in_search, 2, signal.SIGTERM), 143, 11),
        (functools.partial(children.requeued_in_step, 1, 75), 75, 12),  # goes to the handler
        (functools.partial(children.in_step, 1, signal.SIGUSR2), 128 + signal.SIGUSR2, 13),
        (functools.partial(children.in_step, 3, signal.SIGTERM), 143, 16),
    ):
        stopped(command, fate, code, step)
        assert before is None or f"resumed at step {before} " in command.log.read_text()
        before = step
    assert command.run() == 0
    assert f"resumed at step {STEPS} (epoch {EPOCHS})" in command.log.read_text()
    assert command.outcome() == command.reference


@pytest.mark.exhaustive
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
@pytest.mark.parametrize("place", ["first step", "step", "last step", "search", "evaluation"])
def test_every_signal_at_every_place(variant, number, place, uninterrupted, tmp_path) -> None:
    command = uninterrupted(variant).at(tmp_path / "outputs")
    last = command.reference["searches"][-1]["step"]
    kind, count, step = {
        "first step": (children.in_step, 1, 1),
        "step": (children.in_step, 11, 11),
        "last step": (children.in_step, STEPS, STEPS),
        "search": (children.in_search, searches(command), last + 1),
        "evaluation": (children.in_evaluation, 1, 8),
    }[place]
    stopped(command, functools.partial(kind, count, number), 128 + number, step)
    assert command.run() == 0
    assert f"resumed at step {step} " in command.log.read_text()
    assert command.outcome() == command.reference


def test_a_second_ctrl_c_does_not_wait(uninterrupted, tmp_path) -> None:
    command = uninterrupted("gradnorm").at(tmp_path / "outputs")
    assert command.run(fate=functools.partial(children.in_step, 7, signal.SIGINT, 2)) == 130
    assert list(command.output.rglob("step-*")) == []
    assert command.run() == 0
    assert "no checkpoint to resume from; starting over" in command.log.read_text()
    assert command.outcome() == command.reference


def test_in_the_background_ctrl_c_is_ignored(uninterrupted, tmp_path) -> None:
    """As the shell that started it there has it."""
    command = uninterrupted("gradnorm").at(tmp_path / "outputs")
    assert command.run(fate=functools.partial(children.ignored_in_step, 7)) == 0
    assert command.outcome() == command.reference


def test_a_handler_that_returns_lets_the_run_go_on(uninterrupted, tmp_path) -> None:
    command = uninterrupted("gradnorm").at(tmp_path / "outputs")
    assert command.run(fate=functools.partial(children.requeued_in_step, 9, None)) == 0
    assert command.outcome() == command.reference


def test_rerun_starts_over(uninterrupted, tmp_path) -> None:
    command = uninterrupted("gradnorm").at(tmp_path / "outputs")
    assert command.run(EVERY_STEP, fate=functools.partial(children.in_step, 9)) < 0
    assert command.run("rerun=true") == 0
    assert "resumed" not in command.log.read_text()
    assert "resumed" not in json.loads((command.directory / "provenance.json").read_text())
    assert command.outcome() == command.reference
