"""SuperGLUE: every task on rows of its schema, its metrics, and the files that it wants."""

import itertools
import json
import math
import random
import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import WIRINGS, WORDS, CommandLine, composed, tiny_tokenizer, write_parquet
from omegaconf import OmegaConf
from pyarrow import parquet
from sklearn import metrics as sklearn_metrics
from support import checkpoint, configured, one_problem, randomize, space

from heterolora import architectures
from heterolora.errors import DataError
from heterolora.harness.cli.commands import predict
from heterolora.harness.config import TaskConfig, plugins
from heterolora.harness.config import checkpoints as located
from heterolora.losses import inputs
from heterolora.tasks import Encoded, Grouped, MultipleChoice, Prompted
from heterolora.tasks.choices import Choices

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


def copa(rng: random.Random, index: int) -> dict[str, Any]:
    return {
        "premise": text(rng),
        "choice1": text(rng),
        "choice2": text(rng, 2),
        "question": rng.choice(["cause", "effect"]),
        "label": rng.randrange(2),
    }


def record(rng: random.Random, index: int) -> dict[str, Any]:
    """Entities in order, each once, and some of them the answers."""
    entities = sorted({text(rng, rng.randrange(1, 3)) for _ in range(rng.randrange(2, 6))})
    return {
        "passage": f"{text(rng, rng.randrange(1, 7))}\n@highlight\n{text(rng, 3)}",
        "query": f"{text(rng, 2)} @placeholder {text(rng, 2)}",
        "entities": entities,
        "answers": sorted(rng.sample(entities, rng.randrange(1, 3))),
        "idx": {"passage": index // 2, "query": index},
    }


TASKS = {make.__name__: make for make in (boolq, cb, wic, wsc, multirc, copa, record)}


def rows_of(task: str, count: int, seed: int, hidden: bool = False) -> Rows:
    """Rows of a task as the hub's dataset has them; in its test splits the labels are hidden."""
    rng = random.Random(seed)
    rows = [{"idx": index, **TASKS[task](rng, index)} for index in range(count)]
    if hidden:
        rows = [
            {**row, "answers": []} if task == "record" else {**row, "label": -1} for row in rows
        ]
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


def squad(answer: str) -> list[str]:
    """The words that count."""
    kept = re.sub(r"[^\w\s]|_", "", answer.lower()).split()
    return [word for word in kept if word not in ("a", "an", "the")]


def squad_f1(said: str, answer: str) -> float:
    left, right = squad(said), squad(answer)
    common = sum(min(left.count(word), right.count(word)) for word in set(left))
    if common == 0:
        return 0.0
    precision, recall = common / len(left), common / len(right)
    return 2 * precision * recall / (precision + recall)


def measured(task: str, rows: Rows, columns: Rows) -> dict[str, float]:
    """The benchmark's metrics of predictions, by its own definitions."""
    truth, guess = columns["answers" if task == "record" else "label"], rows["prediction"]
    pairs = list(zip(truth, guess, strict=True))
    if task == "multirc":
        questions: dict[Any, list[bool]] = {}
        for index, (label, said) in zip(columns["idx"], pairs, strict=True):
            key = (index["paragraph"], index["question"])
            questions.setdefault(key, []).append(label == said)
        f1 = sklearn_metrics.f1_score(truth, guess, zero_division=0.0)
        return {"f1": f1, "exact_match": sum(map(all, questions.values())) / len(questions)}
    if task == "record":
        f1 = sum(max(squad_f1(said, answer) for answer in answers) for answers, said in pairs)
        exact = sum(any(squad(said) == squad(a) for a in answers) for answers, said in pairs)
        return {"token_f1": f1 / len(pairs), "exact_match": exact / len(pairs)}
    found = {"accuracy": sum(label == said for label, said in pairs) / len(pairs)}
    if task == "cb":
        found["macro_f1"] = sklearn_metrics.f1_score(truth, guess, average="macro")
    return found


FILES = {"boolq": "BoolQ", "cb": "CB", "wic": "WiC", "wsc": "WSC", "multirc": "MultiRC"}
FILES |= {"copa": "COPA", "record": "ReCoRD"}
LABELS: dict[str, list[Any]] = {
    "boolq": ["false", "true"],
    "cb": ["entailment", "contradiction", "neutral"],
    "wic": ["false", "true"],
    "wsc": ["False", "True"],
    "copa": [0, 1],
}


def submitted(task: str, rows: Rows, columns: Rows) -> list[Any]:
    """What the benchmark wants, an object for each line."""
    if task == "record":
        pairs = zip(columns["idx"], rows["prediction"], strict=True)
        return [{"idx": index["query"], "label": said} for index, said in pairs]
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
    return Path(done.out.split("\nrecord")[-1].split("\n")[0].strip())


def fast(cases: Iterable[Any], *chosen: Any) -> list[Any]:
    """The others are left to the slow suite, which has the time."""
    slow = pytest.mark.slow
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    known = {case if isinstance(case, tuple) else (case,) for case in chosen}
    return [pytest.param(*one, marks=[] if one in known else slow) for one in values]


@pytest.mark.parametrize("task", fast(TASKS, "cb", "wic", "multirc", "record"))
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
    assert OmegaConf.load(run / "config.yaml").task.metrics == list(expected)
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


def encoded_choices(rows: Rows) -> tuple[MultipleChoice, Choices]:
    made = section("record", max_length=32).build()
    assert isinstance(made, MultipleChoice)
    return made, made.encode(made.check(rows, "here"), tiny_tokenizer(), 32, CPU)


def test_choices_are_texts_in_the_place_of_the_blank() -> None:
    rows = rows_of("record", 9, seed=6)
    _, encoded = encoded_choices(rows)
    tokenizer = tiny_tokenizer()
    for row in range(9):
        for number, entity in enumerate(rows["entities"][row]):
            query = rows["query"][row].replace("@placeholder", entity)
            one = tokenizer(rows["passage"][row], query)["input_ids"]
            assert encoded.features["input_ids"][row][number, : len(one)].tolist() == one
            assert encoded.features["attention_mask"][row][number].sum() == len(one)


def test_the_loss_is_of_the_choices_that_there_are() -> None:
    rows = rows_of("record", 9, seed=6)
    of, encoded = encoded_choices(rows)
    (batch,) = encoded.in_order(9)
    sizes = [len(entities) for entities in rows["entities"]]
    assert batch["choices"].sum(1).tolist() == sizes
    assert batch["input_ids"].shape[:2] == (9, max(sizes))
    given = inputs(batch)
    assert set(given) == {"input_ids", "attention_mask", "token_type_ids"} & set(batch)
    assert given["input_ids"].shape[0] == 9 * max(sizes)
    assert given["attention_mask"].sum(1).min() == 1
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9 * max(sizes), 1, generator=generator, dtype=torch.float64)
    total, count = of.loss(SimpleNamespace(logits=logits), batch)
    expected = 0.0
    for row, (entities, answers) in enumerate(zip(rows["entities"], rows["answers"], strict=True)):
        scores = logits.view(9, -1)[row, : sizes[row]].exp().tolist()
        right = sum(s for s, entity in zip(scores, entities, strict=True) if entity in answers)
        expected -= math.log(right / sum(scores))
    assert count == 9
    assert total.item() == pytest.approx(expected)
    parts = [
        of.loss(SimpleNamespace(logits=logits.view(9, -1, 1)[i]), rows_at(batch, i))
        for i in range(9)
    ]
    assert sum(part.item() for part, _ in parts) == pytest.approx(expected)


def rows_at(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    return {name: tensor[row : row + 1] for name, tensor in batch.items()}


SCORED = [*itertools.product(["gradnorm", "eva", "fisher"], WIRINGS)]
SOME_SCORED = [("gradnorm", "llama"), ("eva", "opt-post-norm"), ("fisher", "opt-post-norm")]


@pytest.mark.parametrize(("name", "family"), fast(SCORED, *SOME_SCORED))
def test_scores_of_choices_do_not_depend_on_the_cut(
    name: str, family: str, checkpoints: dict[str, Path]
) -> None:
    """A query alone has no choice that is missing; a batch has."""
    of, encoded = encoded_choices(rows_of("record", 12, seed=7))
    loaded = located.load(checkpoint(checkpoints[family]), of, 0)
    adapters = architectures.wire(loaded.model, loaded.family, space(), loaded.head, 0)
    randomize(adapters)
    found = []
    for size in (1, 5):
        found.append(configured(name).scores(adapters, encoded.in_order(size), of.loss))
        assert all(math.isfinite(score) and score > 0 for score in found[-1].values())
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("task", fast(["copa", "record"], "record"))
def test_choices_of_many_runs_in_one_pass_are_as_alone(
    task: str, command_line: CommandLine, tiny: list[str], tmp_path: Path
) -> None:
    data = data_of(task, tmp_path / "data")
    sweep = ["-m", *tiny, f"task={task}", f"task.path={data}", "seed=0,13", "strategy=static"]
    sweep += [
        "training.epochs=1",
        "training.batch_size=4",
        "training.limit_examples=12",
        "evaluation.split=halves",
    ]
    results = []
    for launcher in ("basic", "packed"):
        out = tmp_path / launcher
        done = command_line(*sweep, f"output={out}", f"hydra/launcher={launcher}")
        assert done.code == 0, done.err
        runs = sorted(out.rglob("run.json"))
        assert len(runs) == 2
        results.append([json.loads(file.read_text())["best"] for file in runs])
    for alone, packed in zip(*results, strict=True):
        losses = [name for name in alone if name.endswith("loss")]
        assert len(losses) == 3
        assert [packed[name] for name in losses] == pytest.approx(
            [alone[name] for name in losses], rel=1e-5
        )


def test_a_label_that_is_no_choice_is_one_line() -> None:
    for task, changes, said in (
        ("copa", {"label": [2]}, "row 0 has label 2"),
        ("copa", {"label": [True]}, "row 0 has label True"),
        ("copa", {"choice1": [None]}, "row 0 of column 'choice1'"),
        ("record", {"answers": [["nobody"]]}, "row 0 has answers .*nobody"),
        ("record", {"answers": ["cat"]}, "row 0 of column 'answers'"),
        ("record", {"entities": [[]]}, "row 0 of column 'entities'"),
    ):
        with pytest.raises(DataError, match=said):
            section(task).build().check({**rows_of(task, 1, seed=0), **changes}, "here")


def test_synflow_has_no_loss_of_choices(
    checkpoints: dict[str, Path], command_line: CommandLine, tiny: list[str], tmp_path: Path
) -> None:
    data = data_of("copa", tmp_path / "data")
    of = [*tiny, "task=copa", f"task.path={data}", "proxy=synflow", "training.max_steps=1"]
    of.remove("proxy.num_batches=2")
    done = command_line(*of, "proxy.objective=loss")
    assert done.code == 2
    assert done.err.startswith("error: proxy.objective=loss: ")
    assert "proxy.objective=output" in done.err
    assert done.err.count("\n") == 1
    assert command_line(*of, "proxy.objective=output").code == 0


BAD = {
    "sentences=['{premise']": {"sentences": ("{premise",)},
    "sentences=['premise']": {"sentences": ("premise",)},
    "sentences='{premise.x}'": {"sentences": ("{premise.x}",)},
    "must not contain the label column": {"sentences": ("{premise} {label}",)},
    "must have the keys column, start, end and by": {"marks": ({"column": "premise", "by": "*"},)},
    "no template contains the column": {
        "marks": ({"column": "x", "start": "s", "end": "e", "by": "*"},)
    },
    "group=[]": {"group": ()},
}


@pytest.mark.parametrize("said", BAD)
def test_settings_that_do_not_fit_are_one_line(said: str) -> None:
    settings = {"sentences": ("{premise}",), "label": "label", "num_labels": 2, "max_length": 8}
    settings |= {"metrics": ("accuracy",)} | BAD[said]
    kind = Grouped if "group" in settings else Prompted
    line = one_problem(kind(**settings))
    assert said in line or said.replace("[", "").replace("]", "") in line
    assert "\n" not in line
