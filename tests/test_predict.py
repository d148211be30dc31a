"""What a finished run's model predicts, by the command: the record's numbers, and the files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONF, CommandLine, sentence_pairs, write_parquet
from hydra import compose
from omegaconf import OmegaConf
from pyarrow import parquet

from heterolora.errors import ConfigError, DataError, ModelError, RecordError
from heterolora.harness.cli.commands import predict
from heterolora.harness.cli.run.compose import composing
from heterolora.harness.config import TaskConfig, plugins
from heterolora.harness.data.submissions import submission
from heterolora.tasks import Encoded

METHODS = sorted(file.stem for file in (CONF / "method").glob("*.yaml"))


def table(file: Path) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = parquet.read_table(file).to_pydict()
    return columns


def accuracy(rows: dict[str, list[Any]], part: list[int] | None = None) -> float:
    indices = range(len(rows["label"])) if part is None else part
    return sum(rows["label"][i] == rows["prediction"][i] for i in indices) / len(indices)


FAST = ("heterolora", "eva")


@pytest.mark.parametrize(
    "method",
    [m if m in FAST else pytest.param(m, marks=pytest.mark.slow) for m in METHODS],
)
def test_predictions_of_validation_have_the_accuracy_of_the_record(
    method: str, train: CommandLine, own_run: Path
) -> None:
    if method == "heterolora":
        run = own_run
    else:
        run = train(f"method={method}", "optimizer.learning_rate=0.02").record
    result = json.loads((run / "run.json").read_text())
    for which in ("best", "last"):
        predict.main([str(run), "--weights", which])
        rows = table(run / "predictions" / "rte-validation.parquet")
        assert rows["index"] == list(range(40))
        assert accuracy(rows) == result[which]["accuracy"]
        labels, logits = torch.tensor(rows["label"]), torch.tensor(rows["logits"])
        assert logits.argmax(-1).tolist() == rows["prediction"]
        loss = torch.nn.functional.cross_entropy(logits, labels)
        assert loss.item() == pytest.approx(result[which]["validation_loss"], rel=1e-5)
    assert not list(run.glob("predictions/*.tsv"))  # of validation, no benchmark asks


def test_halves_are_of_the_predictions(train: CommandLine) -> None:
    short = ("strategy=homogeneous", "training.epochs=1")
    run = train("evaluation.split=halves", *short).record
    best = json.loads((run / "run.json").read_text())["best"]
    predict.main([str(run)])
    rows = table(run / "predictions" / "rte-validation.parquet")
    numbered = Encoded(
        {"input_ids": [torch.tensor([1])] * 40}, {"input_ids": 1}, torch.device("cpu")
    )
    halves = numbered.with_labels(torch.arange(40).unbind()).halves()
    found = [accuracy(rows, half.labels.tolist()) for half in halves]
    assert found == [best["accuracy"], best["report_accuracy"]]


def unlabeled(**columns: list[Any]) -> dict[str, list[Any]]:
    """Rows as of a test split of the hub, in an order of their own."""
    rows = sentence_pairs(9, seed=5)
    return {**rows, "label": [-1] * 9, "idx": list(range(100, 109)), **columns}


def test_a_test_split_a_file_and_what_is_refused(
    own_run: Path, tmp_path: Path, checkpoints: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    run = own_run
    data = write_parquet(
        tmp_path / "data",
        test=unlabeled(),
        bare={name: rows for name, rows in unlabeled().items() if name.startswith("sent")},
        half=unlabeled(label=[1] * 8 + [-1]),
    )
    out = tmp_path / "out"
    predict.main([str(run), "--data", str(data), "--split", "test", "--out", str(out)])
    said = capfd.readouterr().out
    assert f"{out / 'rte-test.parquet'}: 9 predictions" in said
    assert "accuracy" not in said
    rows = table(out / "rte-test.parquet")
    assert list(rows) == ["index", "logits", "prediction"]
    words = ["entailment", "not_entailment"]
    lines = (out / "RTE.tsv").read_text().splitlines()
    assert lines == ["index\tprediction"] + [
        f"{100 + row}\t{words[label]}" for row, label in enumerate(rows["prediction"])
    ]
    predict.main([str(run), "--data", str(data / "bare.parquet"), "--device", "cpu"])
    assert table(run / "predictions" / "rte-bare.parquet") == rows

    def refused(error: type[Exception], match: str, *arguments: str) -> None:
        with pytest.raises(error, match=match) as raised:
            predict.main([str(run), *arguments])
        assert "\n" not in str(raised.value)

    refused(DataError, "row 8 has label -1", "--data", str(data), "--split", "half")
    refused(DataError, r"no file for the split test; .*train, validation", "--split", "test")
    refused(DataError, "--data .*nowhere: cannot be read", "--data", str(tmp_path / "nowhere"))
    refused(ConfigError, "device=tpu: must be auto, cpu", "--device", "tpu")
    refused(ConfigError, "--task rt: there is no such task; did you mean rte", "--task", "rt")
    refused(
        RecordError, "--task ax: its kind or its labels differ from those of rte", "--task", "ax"
    )
    other = str(checkpoints["opt-post-norm"].parent / "nowhere")
    refused(ModelError, "there is no such directory", "--model", other)
    (run / "checkpoint" / "best.safetensors").write_bytes(b"broken")
    refused(RecordError, "best.safetensors: cannot be read")
    (run / "checkpoint" / "best.safetensors").unlink()
    refused(RecordError, "has no best.safetensors; give a finished run")


def test_the_diagnostics_are_answered_by_a_run_of_mnli(train: CommandLine, tmp_path: Path) -> None:
    def rows(count: int, seed: int) -> dict[str, list[Any]]:
        texts = sentence_pairs(count, seed)
        label = [row % 3 for row in range(count)]
        return {"premise": texts["sentence1"], "hypothesis": texts["sentence2"], "label": label}

    hidden = {"label": [-1] * 12, "idx": list(range(12))}
    data = write_parquet(
        tmp_path / "data",
        train=rows(40, 1),
        validation_matched=rows(20, 2),
        test_mismatched=rows(12, 3) | hidden,
        test=rows(12, 4) | hidden,
    )
    short = ("strategy=homogeneous", "training.epochs=1")
    run = train("task=mnli", f"task.path={data}", *short).record
    predict.main([str(run), "--split", "test_mismatched"])
    predict.main([str(run), "--task", "ax", "--data", str(data)])
    for name, file in (("mnli-test_mismatched", "MNLI-mm.tsv"), ("ax-test", "AX.tsv")):
        predicted = table(run / "predictions" / f"{name}.parquet")["prediction"]
        words = ["entailment", "neutral", "contradiction"]
        expected = [f"{i}\t{words[label]}" for i, label in enumerate(predicted)]
        lines = (run / "predictions" / file).read_text().splitlines()
        assert lines == ["index\tprediction", *expected]
    done = train("task=ax", f"task.path={data}")
    assert done.code == 2
    assert "task.label=null: fine-tuning needs labels" in done.err


GLUE = {
    ("cola", "test"): ("CoLA.tsv", ["0", "1"]),
    ("sst2", "test"): ("SST-2.tsv", ["0", "1"]),
    ("mrpc", "test"): ("MRPC.tsv", ["0", "1"]),
    ("qqp", "test"): ("QQP.tsv", ["0", "1"]),
    ("wnli", "test"): ("WNLI.tsv", ["0", "1"]),
    ("qnli", "test"): ("QNLI.tsv", ["entailment", "not_entailment"]),
    ("rte", "test"): ("RTE.tsv", ["entailment", "not_entailment"]),
    ("mnli", "test_matched"): ("MNLI-m.tsv", ["entailment", "neutral", "contradiction"]),
    ("mnli", "test_mismatched"): ("MNLI-mm.tsv", ["entailment", "neutral", "contradiction"]),
    ("ax", "test"): ("AX.tsv", ["entailment", "neutral", "contradiction"]),
}


def section(name: str) -> TaskConfig:
    """The task as its YAML has it; how long an input may be, that of the model says."""
    with composing():
        raw: Any = OmegaConf.to_container(compose(f"task/{name}").task)
    kind = plugins.find("task", raw.get("kind", "classification"))
    assert kind is not None
    made = kind(**raw, max_length=128)
    assert isinstance(made, TaskConfig)
    return made


@pytest.mark.parametrize(("task", "split"), GLUE)
def test_files_of_glue(task: str, split: str) -> None:
    file, words = GLUE[task, split]
    of = section(task)
    made = submission(of, split)
    assert made is not None
    assert made.file == file
    assert of.build().num_labels == len(words)
    predicted = list(range(len(words)))
    expected = ["index\tprediction", *(f"{i + 3}\t{word}" for i, word in enumerate(words))]
    assert list(made.lines({"idx": [i + 3 for i in predicted]}, predicted)) == expected
    assert submission(of, "validation") is None


def test_scores_of_stsb_are_within_its_scale() -> None:
    made = submission(section("stsb"), "test")
    assert made is not None
    assert list(made.lines({}, [5.2, -0.1, 2.34567])) == [
        "index\tprediction",
        "0\t5.000",
        "1\t0.000",
        "2\t2.346",
    ]
