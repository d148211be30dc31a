"""Reading the records of runs back."""

import json
from pathlib import Path

import pytest
from records import write_run

from heterolora.errors import RecordError
from heterolora.reporting.load import load


def test_a_record_comes_back(tmp_path: Path) -> None:
    scores = {"layers.0.q": 1.0, "layers.0.v": 2.0}
    write_run(
        tmp_path,
        "seed=13",
        accuracies=[0.5, 0.75, 0.625],
        scores=[scores, scores],
        enabled=[["layers.0.v"], ["layers.0.q"]],
    )
    write_run(tmp_path, "strategy=homogeneous", accuracies=[0.5], status="failed")
    searched, failed = load(tmp_path)
    assert not failed.finished
    assert searched.finished
    assert (searched.seed, searched.best, searched.last) == (13, 75.0, 62.5)
    assert searched.setting("strategy.enable_rate") == 0.25
    assert searched.setting("strategy.nonsense") is None
    assert failed.setting("proxy.name") is None
    assert [row["step"] for row in searched.epochs] == [100, 200, 300]
    assert len(searched.steps) == 30
    assert [row["ranks"]["layers.0.q"] for row in searched.searches] == [0, 8]
    assert searched.provenance["packages"] == {"torch": "2.13.0"}
    assert list(searched.importance) == []


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="there is no such folder"):
        load(tmp_path / "nowhere")


def test_another_schema_is_said(tmp_path: Path) -> None:
    file = write_run(tmp_path, accuracies=[0.5]) / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": 99}))
    with pytest.raises(RecordError, match="schema_version=99, but this version reads 1"):
        load(tmp_path)


def test_a_run_without_a_whole_result_is_passed_over(tmp_path: Path) -> None:
    (write_run(tmp_path, accuracies=[0.5]) / "run.json").write_text('{"status": "fin')
    assert load(tmp_path) == []
