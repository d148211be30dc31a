"""Reading the records of runs back: whole ones, and damaged ones, which are left out and named."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from records import write_run

from heterolora.errors import RecordError
from heterolora.harness.records.load import load
from heterolora.harness.records.read import read

SCORES = {"layers.0.q": 1.0, "layers.0.v": 2.0}
IMPORTANCE = {
    "site": "layers.0.q",
    "loss_difference": 0.5,
    "metric_difference": 0.25,
    "scores": {"snip": 1.0},
}


def searched(output: Path, status: str = "finished") -> Path:
    return write_run(
        output,
        "seed=13",
        accuracies=[0.5, 0.75, 0.625],
        scores=[SCORES, SCORES],
        enabled=[["layers.0.v"], ["layers.0.q"]],
        importance=[IMPORTANCE],
        status=status,
    )


def test_a_record_comes_back(tmp_path: Path) -> None:
    searched(tmp_path)
    write_run(tmp_path, "strategy=homogeneous", accuracies=[0.5], status="failed")
    (run, failed), problems = load(tmp_path)
    assert problems == []
    assert not failed.finished
    assert failed.result.error == "it broke"
    assert run.finished
    assert (run.seed, run.best, run.last) == (13, 75.0, 62.5)
    assert run.setting("strategy.enable_rate") == 0.25
    assert run.setting("strategy.nonsense") is None
    assert failed.setting("proxy.name") is None
    assert [row.step for row in run.epochs] == [100, 200, 300]
    assert [row.metrics for row in run.epochs] == [
        {"accuracy": value, "f1": value} for value in (0.5, 0.75, 0.625)
    ]
    assert len(run.steps) == 30
    assert [row.ranks["layers.0.q"] for row in run.searches] == [0, 8]
    assert run.provenance.packages == {"torch": "2.13.0"}
    assert [row.row() for row in run.importance] == [IMPORTANCE]
    assert list(failed.importance) == list(failed.searches) == []


def test_runs_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b/c", "a", "b/a"):
        write_run(tmp_path, f"name={name}", accuracies=[0.5])
    runs, _ = load(tmp_path)
    assert [run.config["name"] for run in runs] == ["a", "b/a", "b/c"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="there is no such folder"):
        load(tmp_path / "nowhere")


def test_a_record_of_another_schema_is_left_out_and_named(tmp_path: Path) -> None:
    file = searched(tmp_path) / "run.json"
    for content in ({}, json.loads(file.read_text())):
        file.write_text(json.dumps(content | {"schema_version": 99}))
        runs, (problem,) = load(tmp_path)
        assert runs == []
        assert f"{file}: schema_version=99" in problem


def cut(name: str, by: int = 20) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        os.truncate(run / name, (run / name).stat().st_size - by)

    return damage


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(content) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def folder(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        (run / name).unlink()
        (run / name).mkdir()

    return damage


def change(name: str, old: str, new: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new, 1))

    return damage


DAMAGES = {
    "config.yaml": [
        *(remove("config.yaml"), folder("config.yaml"), write("config.yaml", b"")),
        *(write("config.yaml", b"\xff\xfe\x00"), write("config.yaml", b"a: [1,")),
        *(write("config.yaml", b"[1, 2]"), write("config.yaml", b"just words")),
        *(write("config.yaml", b"name: '${'"), change("config.yaml", "seed: 13", "seed: x")),
        change("config.yaml", "metrics:", "metric:"),
        *(change("config.yaml", f"{key}:", "x:") for key in ("lora_rank", "strategy", "model")),
        change("config.yaml", "learning_rate: ", "learning_rate: x"),
        write("config.yaml", b"[" * 800),
    ],
    "run.json": [
        *(cut("run.json"), write("run.json", b""), write("run.json", b"{}"), folder("run.json")),
        *(write("run.json", b"[]"), write("run.json", b"null"), write("run.json", b"\xff\x00")),
        change("run.json", '"status": "finished"', '"status": 3'),
        change("run.json", '"status": "finished"', '"status": "done"'),
        change("run.json", '"accuracy": 0.75', '"accuracy": "high"'),
        change("run.json", '"accuracy": 0.75', '"accuracy": NaN'),
        change("run.json", '"best"', '"bets"'),
        change("run.json", '"accuracy": 0.625', '"else": 0.625'),
        change("run.json", '"training": 50.0', '"training": null'),
    ],
    "metrics.jsonl": [
        *(cut("metrics.jsonl"), remove("metrics.jsonl"), folder("metrics.jsonl")),
        *(change("metrics.jsonl", '"loss"', '"lost"'), write("metrics.jsonl", b"[]\n")),
        change("metrics.jsonl", '"event": "epoch"', '"event": "end"'),
    ],
    "allocations.jsonl": [
        *(cut("allocations.jsonl"), remove("allocations.jsonl"), write("allocations.jsonl", b"3")),
        change("allocations.jsonl", '"layers.0.q": 1.0', '"layers.0.k": 1.0'),
        change("allocations.jsonl", '"layers.0.q": 0', '"layers.0.q": 0.5'),
    ],
    "importance.jsonl": [cut("importance.jsonl"), folder("importance.jsonl")],
    "provenance.json": [
        *(cut("provenance.json"), write("provenance.json", b"[]"), folder("provenance.json")),
        change("provenance.json", '"dirty": false', '"dirty": "no"'),
    ],
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two sound runs; what is damaged is a copy."""
    folder = tmp_path_factory.mktemp("two")
    searched(folder)
    write_run(folder, "strategy=homogeneous", accuracies=[0.5])
    runs, problems = load(folder)
    assert (len(runs), problems) == (2, [])
    return folder


def copied(folder: Path, to: Path) -> Path:
    """A copy of the run that is damaged."""
    (run,) = folder.rglob("*-s13")
    return shutil.copytree(run, to / run.name)


@pytest.mark.parametrize(
    ("name", "damage"), [(name, damage) for name, all_ in DAMAGES.items() for damage in all_]
)
def test_a_damaged_record_is_left_out_and_named(
    name: str, damage: Callable[[Path], None], two: Path, tmp_path: Path
) -> None:
    damaged = copied(two, tmp_path)
    damage(damaged)
    runs, (problem,) = load(tmp_path)
    assert runs == []
    assert str(damaged / name) in problem
    assert "\n" not in problem


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_record_is_left_out_alone(name: str, two: Path, tmp_path: Path) -> None:
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    (damaged,) = tmp_path.rglob("*-s13")
    DAMAGES[name][0](damaged)
    (run,), (problem,) = load(tmp_path)
    assert run.setting("strategy.name") == "homogeneous"
    assert str(damaged / name) in problem
    with pytest.raises(RecordError):
        read(damaged)


@pytest.mark.parametrize("name", ["metrics.jsonl", "allocations.jsonl"])
def test_a_line_on_its_way_is_no_damage_of_an_unfinished_run(
    name: str, two: Path, tmp_path: Path
) -> None:
    directory = copied(two, tmp_path)
    change("run.json", '"status": "finished"', '"status": "running"')(directory)
    cut(name)(directory)
    (run,), problems = load(tmp_path)
    assert problems == []
    assert (len(run.steps), len(run.epochs), len(run.searches)) in [(30, 2, 2), (30, 3, 1)]
    remove(name)(directory)
    assert load(tmp_path)[1] == []


def test_what_is_damaged_after_loading_is_one_line_too(two: Path, tmp_path: Path) -> None:
    directory = copied(two, tmp_path)
    (run,), _ = load(tmp_path)
    cut("allocations.jsonl")(directory)
    with pytest.raises(RecordError, match=r"allocations\.jsonl: line 2 is damaged"):
        _ = run.searches
