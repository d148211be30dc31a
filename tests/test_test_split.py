"""A split that selects nothing: the best epoch is evaluated on it, and nothing else changes."""

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import CommandLine, composed, edited, run_config, sentence_pairs, write_parquet
from pyarrow import parquet
from safetensors.torch import load_file

from heterolora.harness.cli.commands import predict, report
from heterolora.harness.records.record import read_rows
from heterolora.tasks import Encoded
from heterolora.training.engines import LocalEngine

TESTED = 30
"""Examples of the test split, of which no other has as many."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    hidden = {**sentence_pairs(10, seed=4), "label": [-1] * 10}
    return write_parquet(
        tmp_path / "data",
        train=sentence_pairs(60, seed=1),
        validation=sentence_pairs(40, seed=2),
        test=sentence_pairs(TESTED, seed=3),
        hidden=hidden,
    )


def test_the_best_epoch_is_tested_and_nothing_else_changes(
    train: CommandLine,
    data: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    of = [f"task.path={data}", "training.epochs=3", "optimizer.learning_rate=0.03"]
    of += ["seed=1", "evaluation.split=halves", "+proxy@importance.constant=constant"]
    results: dict[str, Any] = {}
    for name in ("null", "test"):
        done = train(*of, f"evaluation.test={name}", f"output={tmp_path / name}")
        result = json.loads((done.record / "run.json").read_text())
        results[name] = (done.record, result, done.out)
    (plain, bare, _), (run, result, said) = results.values()
    assert bare["best"]["epoch"] < 3  # or the weights of the last would do
    assert "test" not in bare
    apart = ("test", "identity", "seconds", "peak_memory_bytes")
    assert {key: value for key, value in result.items() if key not in apart} == {
        key: value for key, value in bare.items() if key not in apart
    }
    # Importance is of the last weights, which are measured after the test.
    for lines in ("metrics.jsonl", "allocations.jsonl", "importance.jsonl"):
        rows = [
            [{k: v for k, v in row.items() if k != "seconds"} for row in read_rows(one / lines)]
            for one in (plain, run)
        ]
        assert rows[0] == rows[1]
    for weights in ("best", "last"):
        own, other = (load_file(one / f"checkpoint/{weights}.safetensors") for one in (run, plain))
        assert own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) for name in own)

    predict.main([str(run), "--split", "test"])
    rows = parquet.read_table(run / "predictions" / "rte-test.parquet").to_pydict()
    right = [a == b for a, b in zip(rows["label"], rows["prediction"], strict=True)]
    assert len(right) == TESTED
    test = result["test"]
    assert (test["split"], test["epoch"]) == ("test", result["best"]["epoch"])
    assert test["accuracy"] == sum(right) / 30
    assert f"test        accuracy {test['accuracy']:.4f} (best epoch on test, loss " in said
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["data"]["test"]["rows"] == TESTED

    capfd.readouterr()
    report.main([str(tmp_path / "test"), "--table", "methods", "--format", "csv"])
    found = pd.read_csv(io.StringIO(capfd.readouterr().out)).dropna(subset="best_mean")
    assert found["test_mean"].tolist() == pytest.approx([100 * test["accuracy"]])
    report.main([str(tmp_path / "test"), "--table", "methods", "--format", "markdown"])
    assert (
        "Test: the best epoch on a split that was not used for selection" in capfd.readouterr().out
    )


@pytest.mark.parametrize("method", ["heterolora", pytest.param("adalora", marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_before_its_test_makes_it_when_it_resumes(
    method: str,
    train: CommandLine,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = [f"task.path={data}", f"method={method}", "evaluation.test=test"]
    evaluate = LocalEngine.evaluate

    def stopping(self: LocalEngine, split: Encoded) -> dict[str, float]:
        if len(split) == TESTED:
            raise KeyboardInterrupt
        return evaluate(self, split)

    with monkeypatch.context() as patch:
        patch.setattr(LocalEngine, "evaluate", stopping)
        assert train(*of, f"output={tmp_path / 'parts'}").code == 130
    for name in ("parts", "whole"):
        assert train(*of, f"output={tmp_path / name}").code == 0
    parts, whole = (
        json.loads(next((tmp_path / name).rglob("run.json")).read_text())
        for name in ("parts", "whole")
    )
    for key in ("test", "best", "last", "parameters"):
        assert parts[key] == whole[key]


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("validation", "evaluation.test=validation: must differ from task.train_split"),
        ("nowhere", "has no split nowhere (such as nowhere.parquet or nowhere.csv)"),
        ("hidden", "evaluation.test=hidden: has no labels"),
    ],
)
def test_a_split_that_cannot_be_tested_on_is_one_line(
    split: str, said: str, train: CommandLine, data: Path
) -> None:
    done = train(f"task.path={data}", f"evaluation.test={split}")
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_the_embedded_task_has_no_test_split() -> None:
    done = run_config(edited(composed("device=cpu", "tracking=local"), "evaluation.test=test"))
    assert done.code == 2
    assert "has only the splits train and validation" in done.err
