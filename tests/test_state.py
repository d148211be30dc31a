"""State: generators that are borrowed, checkpoints that cannot be read, and what they keep."""

import errno
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from support import subject

from heterolora.errors import RecordError
from heterolora.proxies import Snip
from heterolora.seeding import Stream
from heterolora.strategies import Homogeneous, Search
from heterolora.training.checkpoint import CheckpointManager
from heterolora.training.engines import LocalEngine
from heterolora.training.importance import leave_one_out
from heterolora.training.optimizer import adamw
from heterolora.training.trainer import Trainer


def test_a_stream_is_its_own_and_leaves_the_global_generator_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a CPU no other device is so much as asked."""
    for name in ("get_rng_state", "set_rng_state", "manual_seed", "get_rng_state_all"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("touches a GPU"))
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    with Stream(5, "dropout"):
        inside = torch.rand(4)
    assert torch.equal(torch.rand(4), expected)
    with Stream(5, "dropout"):
        assert torch.equal(torch.rand(4), inside)
    with Stream(6, "dropout"):
        assert not torch.equal(torch.rand(4), inside)


@dataclass
class Counter:
    """Something that has state."""

    count: int = 0
    weights: torch.Tensor = field(default_factory=lambda: torch.zeros(2))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.weights = state["count"], state["weights"]


@pytest.fixture
def kept(tmp_path: Path) -> CheckpointManager:
    """With the states of steps 1 and 2."""
    manager = CheckpointManager(tmp_path / "resume")
    for step in (1, 2):
        manager.stateful["counter"] = Counter(step, torch.full((2,), float(step)))
        manager.save(step)
    return manager


def test_what_cannot_be_read_at_the_moment_stays(
    kept: CheckpointManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = kept.stateful["counter"] = Counter()
    with monkeypatch.context() as patch:

        def refuse(file: Path) -> bytes:
            raise OSError(errno.EIO, "Input/output error", str(file))

        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(RecordError, match=r"step-00000002: .*cannot be read .*rerun=true"):
            kept.load()
    assert len(list((tmp_path / "resume").glob("step-*"))) == 2
    assert kept.load() == 2
    assert here.count == 2
    assert here.weights.tolist() == [2, 2]


def test_what_is_damaged_goes(
    kept: CheckpointManager, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "resume" / "step-00000002" / "state.json").write_text("{}")
    here = kept.stateful["counter"] = Counter()
    with caplog.at_level(logging.WARNING):
        assert kept.load() == 1
    assert "this checkpoint is damaged" in caplog.text
    assert here.count == 1
    assert [folder.name for folder in (tmp_path / "resume").iterdir()] == ["step-00000001"]


def test_with_none_whole_nothing_goes(kept: CheckpointManager, tmp_path: Path) -> None:
    for folder in (tmp_path / "resume").iterdir():
        (folder / "checksums.json").unlink()
    with pytest.raises(RecordError, match=r"all 2 checkpoints are damaged.*rerun=true"):
        kept.load()
    assert len(list((tmp_path / "resume").iterdir())) == 2


@pytest.mark.parametrize("checksums", ["[]", "{}"])
def test_checksums_that_say_nothing_are_damage(
    kept: CheckpointManager, tmp_path: Path, checksums: str
) -> None:
    """A state would otherwise be restored unchecked, or in part."""
    (tmp_path / "resume" / "step-00000002" / "checksums.json").write_text(checksums)
    kept.stateful["counter"] = Counter()
    assert kept.load() == 1
    assert kept.newest == 1


def test_a_state_of_another_kind_is_refused_and_stays(
    kept: CheckpointManager, tmp_path: Path
) -> None:
    """It would otherwise be called damaged, and removed."""
    other = CheckpointManager(tmp_path / "resume")
    other.stateful, other.facts = kept.stateful, {**kept.facts, "world size": 2}
    with pytest.raises(RecordError, match=r"world size None but this run has 2.*rerun=true"):
        other.load()
    assert kept.load() == 2


def test_a_state_that_cannot_be_written_leaves_those_before(
    kept: CheckpointManager, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "resume" / ".step-00000003.partial"
    in_the_way.write_text("a file where a folder is to be made")
    with pytest.raises(RecordError, match="step-00000003"):
        kept.save(3)
    assert kept.load() == 2


@dataclass(frozen=True)
class Counting(Homogeneous):
    """A strategy that has state."""

    counter: Counter = field(default_factory=Counter)

    def state_dict(self) -> dict[str, Any]:
        return self.counter.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counter.load_state_dict(state)


def test_a_trainer_keeps_whatever_has_state(checkpoints: dict[str, Path], pairs: Path) -> None:
    here = subject(checkpoints["bert"], pairs)

    def trainer(strategy: Homogeneous) -> Trainer:
        engine = LocalEngine(here.adapters, None, adamw(here.adapters, 1e-3))
        search = Search(here.adapters, Snip(), here.examples, [], loss=here.loss)
        parts = {"strategy": strategy, "search": search}
        return Trainer(engine, here.examples, {}, 1, 8, 0, "accuracy", **parts)

    state = trainer(Counting(counter=Counter(3))).state_dict()
    assert {"engine", "search", "strategy"} <= state.keys()
    other = Counting()
    trainer(other).load_state_dict(state)
    assert other.counter.count == 3
    assert "strategy" not in trainer(Homogeneous()).state_dict()


def test_an_evaluation_that_fails_leaves_every_site_on(
    checkpoints: dict[str, Path], pairs: Path
) -> None:
    adapters = subject(checkpoints["bert"], pairs).adapters
    before = adapters.ranks
    seen: list[int] = []

    def evaluate() -> dict[str, float]:
        seen.append(len(adapters.enabled))
        if len(seen) == 3:
            raise RuntimeError("out of memory")
        return {"loss": 1.0, "accuracy": 0.5}

    with pytest.raises(RuntimeError):
        leave_one_out(adapters, evaluate, "accuracy")
    assert seen == [len(before), len(before) - 1, len(before) - 1]
    assert adapters.ranks == before
