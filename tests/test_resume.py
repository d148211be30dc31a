"""A run that is killed and started again ends as one that never was: to the bit."""

import functools
import json
import random
import signal
import time
from collections.abc import Callable, Iterator

import children
import pytest
from children import Command
from conftest import composed
from transformers import AutoConfig

from heterolora.records.record import read_run

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
            *("training.epochs=3", "training.batch_size=8", *VARIANTS[variant]),
        )
        command = Command(cfg, output)
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
        return command.run(minutes, fate=functools.partial(children.in_step, rng.randint(1, 24)))
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
def test_killed_at_any_moment_and_resumed_it_is_the_same_run(uninterrupted, tmp_path) -> None:
    rng = random.Random(20240614)
    kinds = ["in a step", "in a search", "at a file", "at a file", "at any time"]
    seen: dict[str, int] = {}
    for index in range(KILLS):
        kind = kinds[index % len(kinds)]
        command = uninterrupted(rng.choice(list(VARIANTS))).at(tmp_path / "outputs")
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


@pytest.mark.parametrize(
    "variant",
    [
        *("gradnorm", "sensitivity"),
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("pruning", "running", "scheduled")),
    ],
)
def test_killed_again_and_again_it_gets_there(variant, uninterrupted, tmp_path) -> None:
    command = uninterrupted(variant).at(tmp_path / "outputs")
    kills = 0
    while (code := command.run(EVERY_STEP, fate=functools.partial(children.in_step, 5))) != 0:
        assert code == -signal.SIGKILL
        kills += 1
    assert kills == 24 // 4 - (24 % 4 == 0)  # each gets four steps on; the fifth is lost
    assert command.outcome() == command.reference
    resumed = json.loads((command.directory / "provenance.json").read_text())["resumed"]
    assert [entry["step"] for entry in resumed] == [4, 8, 12, 16, 20]
    assert all(set(entry) == {"step", "code"} for entry in resumed)


def interrupted(command: Command, fate: children.Fate, code: int, step: int) -> None:
    """Stopped by a signal with that exit code at that step, recorded as such, and resumed."""
    assert command.run(fate=fate) == code, command.log.read_text()
    run = read_run(command.directory)
    assert run is not None
    assert (run["status"], run["steps"]) == ("interrupted", step)
    assert not (command.directory / ".lock").exists()
    assert command.run() == 0
    assert f"resumed at step {step} (epoch {min(step // 8 + 1, 3)})" in command.log.read_text()
    assert command.outcome() == command.reference


@pytest.mark.parametrize(
    ("place", "count", "step"),
    [
        (children.in_step, 1, 1),
        (children.in_step, 11, 11),
        (children.in_step, 24, 24),
        (children.in_search, 6, 11),
        (children.in_evaluation, 2, 16),
    ],
)
def test_sigterm_waits_for_the_step_and_is_143(place, count, step, uninterrupted, tmp_path) -> None:
    command = uninterrupted("constant").at(tmp_path / "outputs")
    fate = functools.partial(place, count, signal.SIGTERM)
    interrupted(command, fate, code=143, step=step)


def test_ctrl_c_waits_for_the_step_and_is_130(uninterrupted, tmp_path) -> None:
    command = uninterrupted("gradnorm").at(tmp_path / "outputs")
    interrupted(command, functools.partial(children.in_step, 7, signal.SIGINT), 130, 7)


def test_a_second_ctrl_c_does_not_wait(uninterrupted, tmp_path) -> None:
    command = uninterrupted("gradnorm").at(tmp_path / "outputs")
    assert command.run(fate=functools.partial(children.in_step, 7, signal.SIGINT, 2)) == 130
    assert list(command.output.rglob("step-*")) == []
    assert command.run() == 0
    assert "no checkpoint to resume from; starting over" in command.log.read_text()
    assert command.outcome() == command.reference


def test_in_the_background_ctrl_c_is_ignored(uninterrupted, tmp_path) -> None:
    """As the shell that started it there has it."""
    command = uninterrupted("constant").at(tmp_path / "outputs")
    assert command.run(fate=functools.partial(children.ignored_in_step, 7)) == 0
    assert command.outcome() == command.reference


def test_sigusr2_saves_and_goes_to_the_handler_that_was_there(uninterrupted, tmp_path) -> None:
    command = uninterrupted("gradnorm").at(tmp_path / "outputs")
    interrupted(command, functools.partial(children.requeued_in_step, 9, 75), 75, 9)


def test_sigusr2_without_a_handler_ends_the_run(uninterrupted, tmp_path) -> None:
    command = uninterrupted("gradnorm").at(tmp_path / "outputs")
    code = 128 + signal.SIGUSR2
    interrupted(command, functools.partial(children.in_step, 9, signal.SIGUSR2), code, 9)


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
