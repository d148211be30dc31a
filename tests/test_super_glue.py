"""SuperGLUE: every task on rows of its schema, its metrics, and the files that it wants."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import WORDS, CommandLine, composed, tiny_tokenizer, write_parquet
from omegaconf import OmegaConf
from pyarrow import parquet
from sklearn import metrics as sklearn_metrics

from heterolora.cli import predict
from heterolora.config import TaskConfig, plugins
from heterolora.errors import DataError
from heterolora.tasks import Encoded, Grouped, Prompted

CPU = torch.device("cpu")
Rows = dict[str, list[Any]]


def text(rng: random.Random, words: int = 4) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def boolq(rng: random.Random, index: int) -> dict[str, Any]:
    return {"question": text(rng), "passage": text(rng, 6), "label": rng.randrange(2)}


def cb(rng: random.Random, index: int) -> dict[str, Any]:
    return {"premise": text(rng), "hypothesis": text(rng), "label": rng.randrange(3)}


def wic(rng: random.Random, index: int) -> dict[str, Any]:
    """`end1` is the character after the word."""
    word, row = rng.choice(WORDS), {}
    for part in (1, 2):
        before = text(rng, rng.randrange(1, 4))
        row[f"sentence{part}"] = f"{before} {word} {text(rng, 2)}"
        row[f"start{part}"] = len(before) + 1
        row[f"end{part}"] = len(before) + 1 + len(word)
    return {"word": word, **row, "label": rng.randrange(2)}


def wsc(rng: random.Random, index: int) -> dict[str, Any]:
    """`span1_index` is the number of its first word."""
    words = text(rng, 8).split()
    first, second = rng.randrange(3), rng.randrange(4, 8)
    return {
        "text": " ".join(words),
        "span1_index": first,
        "span1_text": " ".join(words[first : first + 2]),
        "span2_index": second,
        "span2_text": words[second],
        "label": rng.randrange(2),
    }


def multirc(rng: random.Random, index: int) -> dict[str, Any]:
    """Three answers to a question, two questions to a paragraph; questions are numbered on."""
    return {
        "paragraph": text(random.Random(index // 6), 6),
        "question": text(random.Random(index // 3), 3),
        "answer": text(rng, 2),
        "idx": {"paragraph": index // 6, "question": index // 3, "answer": index},
        "label": rng.randrange(2),
    }


TASKS = {make.__name__: make for make in (boolq, cb, wic, wsc, multirc)}


def rows_of(task: str, count: int, seed: int, hidden: bool = False) -> Rows:
    """Rows of a task as the hub's dataset has them; in its test splits the labels are hidden."""
    rng = random.Random(seed)
    rows = [{"idx": index, **TASKS[task](rng, index)} for index in range(count)]
    if hidden:
        rows = [{**row, "label": -1} for row in rows]
    return {name: [row[name] for row in rows] for name in rows[0]}


def data_of(task: str, folder: Path) -> Path:
    return write_parquet(
        folder,
        train=rows_of(task, 36, seed=1),
        validation=rows_of(task, 24, seed=2),
        test=rows_of(task, 12, seed=3, hidden=True),
    )


def section(name: str, **changes: Any) -> TaskConfig:
    """The task as its YAML has it."""
    raw: Any = OmegaConf.to_container(composed(f"task={name}").task)
    kind = plugins.find("task", raw.get("kind", "classification"))
    assert kind is not None
    made = kind(**raw | changes)
    assert isinstance(made, TaskConfig)
    return made


def measured(task: str, rows: Rows, columns: Rows) -> dict[str, float]:
    """The benchmark's metrics of predictions, by its own definitions."""
    truth, guess = columns["label"], rows["prediction"]
    pairs = list(zip(truth, guess, strict=True))
    if task == "multirc":
        questions: dict[Any, list[bool]] = {}
        for index, (label, said) in zip(columns["idx"], pairs, strict=True):
            key = (index["paragraph"], index["question"])
            questions.setdefault(key, []).append(label == said)
        f1 = sklearn_metrics.f1_score(truth, guess, zero_division=0.0)
        return {"f1": f1, "exact_match": sum(map(all, questions.values())) / len(questions)}
    found = {"accuracy": sum(label == said for label, said in pairs) / len(pairs)}
    if task == "cb":
        found["macro_f1"] = sklearn_metrics.f1_score(truth, guess, average="macro")
    return found


FILES = {"boolq": "BoolQ", "cb": "CB", "wic": "WiC", "wsc": "WSC", "multirc": "MultiRC"}
LABELS: dict[str, list[Any]] = {
    "boolq": ["false", "true"],
    "cb": ["entailment", "contradiction", "neutral"],
    "wic": ["false", "true"],
    "wsc": ["False", "True"],
}


def submitted(task: str, rows: Rows, columns: Rows) -> list[Any]:
    """What the benchmark wants, an object for each line."""
    if task != "multirc":
        pairs = zip(columns["idx"], rows["prediction"], strict=True)
        return [{"idx": index, "label": LABELS[task][said]} for index, said in pairs]
    answer = iter(rows["prediction"])
    return [
        {
            "idx": paragraph,
            "passage": {
                "questions": [
                    {
                        "idx": question,
                        "answers": [
                            {"idx": 3 * question + part, "label": next(answer)} for part in range(3)
                        ],
                    }
                    for question in (2 * paragraph, 2 * paragraph + 1)
                ]
            },
        }
        for paragraph in range(2)
    ]


def finished(command_line: CommandLine, *overrides: str) -> Path:
    done = command_line(*overrides)
    assert done.code == 0, done.err
    return Path(done.out.split("record")[-1].split("\n")[0].strip())


@pytest.mark.parametrize("task", TASKS)
def test_a_run_its_metrics_and_its_submission(
    task: str, command_line: CommandLine, tiny: list[str], tmp_path: Path
) -> None:
    data = data_of(task, tmp_path / "data")
    of = [*tiny, f"task={task}", f"task.path={data}", "optimizer.learning_rate=0.03"]
    run = finished(command_line, *of, "strategy=static", "training.micro_batch_size=3")
    best = json.loads((run / "run.json").read_text())["best"]
    predict.main([str(run)])
    rows = parquet.read_table(run / "predictions" / f"{task}-validation.parquet").to_pydict()
    expected = measured(task, rows, rows_of(task, 24, seed=2))
    assert {name: best[name] for name in expected} == pytest.approx(expected)
    assert composed(f"task={task}").task.metrics == list(expected)
    predict.main([str(run), "--split", "test"])
    rows = parquet.read_table(run / "predictions" / f"{task}-test.parquet").to_pydict()
    assert "label" not in rows
    lines = (run / "predictions" / f"{FILES[task]}.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == submitted(task, rows, rows_of(task, 12, seed=3))


def test_words_are_marked_where_they_stand() -> None:
    in_two = section("wic").build()
    columns = {
        "word": ["bank"],
        "sentence1": ["A bank, the bank."],
        "sentence2": ["bank on me"],
        **{"start1": [12], "end1": [16], "start2": [0], "end2": [4], "label": [1], "idx": [0]},
    }
    made = in_two.check(columns, "here").columns
    assert list(made.values()) == [["bank: A bank, the *bank*."], ["*bank* on me"], [1]]
    of_pronoun = section("wsc").build()
    columns = {
        "text": ["Then  the old man said he left."],
        "span1_index": [1],
        "span1_text": ["the old man"],
        "span2_index": [5],
        "span2_text": ["he"],
        "label": [1],
    }
    made = of_pronoun.check(columns, "here").columns
    assert list(made.values()) == [["Then  *the old man* said #he# left."], [1]]
    with pytest.raises(DataError, match="row 0 has span2_index=6, span2_text=he left"):
        of_pronoun.check({**columns, "span2_index": [6], "span2_text": ["he left"]}, "here")


def test_a_group_that_is_not_there_is_one_line() -> None:
    rows = rows_of("multirc", 3, seed=4)
    with pytest.raises(DataError, match=r"row 0 has no idx.paragraph, which task.group names"):
        section("multirc").build().check({**rows, "idx": [1, 2, 3]}, "here")


def test_answers_of_a_question_are_in_one_half(tmp_path: Path) -> None:
    of = section("multirc", max_length=32)
    rows = rows_of("multirc", 33, seed=4)
    encoded = of.build().encode(of.build().check(rows, "here"), tiny_tokenizer(), 32, CPU)
    halves = [half.features["groups"] for half in encoded.halves()]
    questions = [{int(group) for group in half} for half in halves]
    assert [len(half) for half in questions] == [6, 5]
    assert questions[0].isdisjoint(questions[1])
    assert [len(half) for half in halves] == [18, 15]
    plain = Encoded(encoded.features | {"groups": torch.arange(33).unbind()}, encoded.padding, CPU)
    bare = {name: rows for name, rows in encoded.features.items() if name != "groups"}
    for one, other in zip(plain.halves(), Encoded(bare, plain.padding, CPU).halves(), strict=True):
        assert torch.equal(one.labels, other.labels)


BAD = {
    "sentences=['{premise']": {"sentences": ("{premise",)},
    "sentences=['premise']": {"sentences": ("premise",)},
    "sentences='{premise.x}'": {"sentences": ("{premise.x}",)},
    "must not have the column of the labels": {"sentences": ("{premise} {label}",)},
    "must have the keys column, start, end and by": {"marks": ({"column": "premise", "by": "*"},)},
    "no template has the column": {
        "marks": ({"column": "x", "start": "s", "end": "e", "by": "*"},)
    },
    "group=[]": {"group": ()},
}


@pytest.mark.parametrize("said", BAD)
def test_settings_that_do_not_fit_are_one_line(said: str) -> None:
    settings = {"sentences": ("{premise}",), "label": "label", "num_labels": 2, "max_length": 8}
    settings |= {"metrics": ("accuracy",)} | BAD[said]
    kind = Grouped if "group" in settings else Prompted
    (line,) = kind(**settings).problems()
    assert said in line or said.replace("[", "").replace("]", "") in line
    assert "\n" not in line
