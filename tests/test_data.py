"""Datasets checked row by row, batches and their order, losses and metrics by their formulas."""

import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from conftest import ROOT, WORDS, composed, sentence_pairs, tiny_tokenizer, write_parquet
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from support import one_problem
from support import task as any_task
from torch import Tensor

from heterolora.errors import DataError
from heterolora.harness.config import TaskConfig
from heterolora.harness.config.rules import data
from heterolora.harness.data import sources
from heterolora.harness.runs import execute as experiment
from heterolora.losses import LABELS
from heterolora.settings import Situation
from heterolora.tasks import CausalLM, Classification, Encoded, Examples, Task

patiently = settings(deadline=None)
GLUE = ROOT.parent / "shared" / "glue"
PAIR = {"sentence1": ["a cat", "the dog"], "sentence2": ["not a cat", "two"], "label": [0, 1]}
CPU = torch.device("cpu")


def task(**changes: Any) -> TaskConfig:
    """A paraphrase task; changed as asked."""
    pairs = {"sentences": ("sentence1", "sentence2"), "max_length": 64}
    return any_task(**{**pairs, **changes})


def classification(**changes: Any) -> Classification:
    made = task(**changes).build()
    assert isinstance(made, Classification)
    return made


def encoded(*columns: list[str], positions: int = 64, max_length: int = 64) -> Encoded:
    names = ("sentence1", "sentence2")[: len(columns)]
    examples = Examples({**dict(zip(names, columns, strict=True)), "label": [0] * len(columns[0])})
    asked = classification(sentences=names, max_length=max_length)
    return asked.encode(examples, tiny_tokenizer(), positions, CPU)


def words(count: int) -> str:
    return " ".join((WORDS * 9)[:count])


def test_a_split_is_one_file_or_shards(tmp_path: Path) -> None:
    columns = sentence_pairs(5, seed=3)
    for shard, part in enumerate((slice(0, 3), slice(3, 5))):
        rows = {name: values[part] for name, values in columns.items()}
        parquet.write_table(pa.table(rows), tmp_path / f"validation-0000{shard}-of-00002.parquet")
    write_parquet(tmp_path, train=PAIR)
    local = task(path=str(tmp_path))
    assert list(data.data_is_there(local)) == []
    loaded = sources.load(local, "validation")
    assert loaded == Examples({name: columns[name] for name in PAIR})
    assert sources.load(local, "train").columns["label"] == [0, 1]


def test_a_split_that_is_not_there_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    write_parquet(tmp_path, train=PAIR, validation_matched=PAIR)
    (line,) = data.data_is_there(task(path=str(tmp_path)))
    assert "has no file validation or validation-* of type .parquet, .csv" in line
    assert "task.validation_split=" in line


BAD = {
    "no label column": ({"label": None}, {}, ["task.label", "'label'", "sentence1, sentence2"]),
    "no text column": ({"sentence2": None}, {}, ["task.sentences", "'sentence2'"]),
    "unknown label": ({"label": [0, 2]}, {}, ["row 1", "label 2", "0 to 1"]),
    "negative label": ({"label": [-1, 1]}, {}, ["row 0", "label -1"]),
    "label None": ({"label": [0, None]}, {}, ["row 1", "None"]),
    "label a fraction": ({"label": [0.0, 0.5]}, {}, ["row 0", "0.0"]),
    "label a bool": ({"label": [True, False]}, {}, ["row 0", "True"]),
    "label a word": ({"label": ["no", "yes"]}, {}, ["row 0", "'no'"]),
    "text None": ({"sentence1": ["a cat", None]}, {}, ["row 1", "'sentence1'", "None"]),
    "text a number": ({"sentence2": [1.5, 2.5]}, {}, ["row 0", "'sentence2'", "1.5"]),
    "no rows": ({name: [] for name in PAIR}, {}, ["no rows"]),
    "score NaN": ({"label": [0.5, math.nan]}, {"num_labels": 1}, ["row 1", "nan", "finite"]),
    "score None": ({"label": [None, 0.5]}, {"num_labels": 1}, ["row 0", "None", "finite"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_split_is_one_line(case: str, tmp_path: Path) -> None:
    changes, of_task, said = BAD[case]
    columns = {name: values for name, values in {**PAIR, **changes}.items() if values is not None}
    write_parquet(tmp_path, train=columns)
    with pytest.raises(DataError) as raised:
        sources.load(task(path=str(tmp_path), **of_task), "train")
    message = str(raised.value)
    assert "\n" not in message
    assert str(tmp_path) in message or "column" in message
    assert [words for words in said if words not in message] == [], message


@pytest.mark.parametrize("content", [b"", b"sentence1\tsentence2\n" * 9, b"PAR1" + bytes(40)])
def test_a_file_that_is_not_parquet_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"^task.path=.*: cannot be read as parquet: .+$"):
        sources.load(task(path=str(tmp_path)), "train")


def test_the_shard_that_is_broken_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path, **{"train-00000-of-00002": PAIR})
    (tmp_path / "train-00001-of-00002.parquet").write_bytes(b"broken")
    with pytest.raises(DataError, match="train-00001-of-00002"):
        sources.load(task(path=str(tmp_path)), "train")


def test_scores_of_a_regression_are_floats_and_classes_integers(tmp_path: Path) -> None:
    write_parquet(tmp_path, train={**PAIR, "label": [0.5, 5.0]}, validation=PAIR)
    scores = sources.load(task(path=str(tmp_path), num_labels=1), "train").columns["label"]
    classes = sources.load(task(path=str(tmp_path)), "validation").columns["label"]
    whole = sources.load(task(path=str(tmp_path), num_labels=1), "validation").columns["label"]
    assert (scores, classes, whole) == ([0.5, 5.0], [0, 1], [0.0, 1.0])
    assert [type(labels[0]) for labels in (scores, classes, whole)] == [float, int, float]


def test_the_fingerprint_is_that_of_the_content() -> None:
    def of(*columns: list[Any]) -> str:
        return Examples(dict(zip("abc", columns, strict=False))).fingerprint()

    first, second = ["a", "b"], ["c", "d"]
    same = of(first, second, [0, 1])
    assert of(list(first), list(second), [0, 1]) == same
    others = [
        of(["a", "x"], second, [0, 1]),
        of(second, first, [0, 1]),
        of(first, second, [1, 1]),
        of(first, [0, 1]),
        of(["b", "a"], ["d", "c"], [1, 0]),
        of(first[:1], second[:1], [0]),
    ]
    assert len({same, *others}) == 7


def test_two_splits_of_the_same_rows_are_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path, train=PAIR, validation=PAIR, other={**PAIR, "label": [1, 1]})
    with pytest.raises(DataError, match=r"^task.validation_split=validation: has the same rows"):
        sources.load_splits(task(path=str(tmp_path)))
    splits = sources.load_splits(task(path=str(tmp_path), validation_split="other"))
    assert [split.columns["label"] for split in splits.values()] == [[0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("name", "rows"),
    [("mrpc", (3668, 408)), ("rte", (2490, 277)), ("sst2", (67349, 872))],
)
def test_glue_on_disk(name: str, rows: tuple[int, int], checkpoints: dict[str, Path]) -> None:
    if not (GLUE / name).is_dir():
        pytest.skip(f"GLUE is not on this machine at {GLUE}")
    model = f"model.path={checkpoints['bert']}"
    cfg = composed(f"task={name}", f"task.path={GLUE / name}", model, "tracking=local")
    config = experiment.prepare(cfg).task
    splits = (config.train_split, config.validation_split)
    assert tuple(len(sources.load(config, split)) for split in splits) == rows


def test_batches_are_padded_to_their_own_longest() -> None:
    split = encoded([words(n) for n in (1, 5, 2, 9)], [words(1)] * 4)
    batches = list(split.in_order(2))
    # <s> first </s> second </s>: three more than the words.
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(2, 9), (2, 13)]
    assert batches[0]["attention_mask"].sum(1).tolist() == [5, 9]
    pad = tiny_tokenizer().pad_token_id
    assert batches[0]["input_ids"][0, 5:].tolist() == [pad] * 4
    assert batches[0]["attention_mask"][0].tolist() == [1] * 5 + [0] * 4


@patiently
@given(count=st.integers(1, 23), size=st.integers(1, 9), first=st.integers(0, 30))
def test_in_order_takes_the_first(count: int, size: int, first: int) -> None:
    split = numbered(count)
    assert numbers(split.in_order(size, first)) == list(range(min(count, first)))
    sizes = [len(batch["labels"]) for batch in split.in_order(size, first)]
    assert all(found == size for found in sizes[:-1])
    assert len(list(split.in_order(size))) == split.batches(size) == math.ceil(count / size)


@patiently
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 99), st.integers(0, 9))
def test_shuffled_is_a_permutation(count: int, size: int, seed: int, epoch: int) -> None:
    split = numbered(count)
    order = numbers(split.shuffled(size, seed, epoch))
    assert sorted(order) == list(range(count))
    assert order == numbers(split.shuffled(1, seed, epoch))


def test_the_order_is_the_seed_s_and_the_epoch_s() -> None:
    split = numbered(50)
    orders = {
        tuple(numbers(split.shuffled(8, seed, epoch))) for seed in range(3) for epoch in range(3)
    }
    assert len(orders) == 9
    assert tuple(range(50)) not in orders


def numbered(count: int) -> Encoded:
    """`count` examples of one token, each with its own number for a label."""
    tokens = {"input_ids": [torch.tensor([7])] * count}
    return Encoded(tokens, {"input_ids": 1}, CPU).with_labels(torch.arange(count).unbind())


def numbers(batches: Iterable[dict[str, Tensor]]) -> list[int]:
    return [label for batch in batches for label in batch["labels"].tolist()]


@patiently
@given(st.integers(2, 60))
def test_halves_are_disjoint_and_the_same_in_every_run(count: int) -> None:
    whole = numbered(count)
    selection, report = whole.halves()
    assert 0 <= len(selection) - len(report) <= 1
    parts = [numbers(half.in_order(7)) for half in (selection, report)]
    assert sorted(parts[0] + parts[1]) == numbers(whole.in_order(7))
    assert [half.labels.tolist() for half in whole.halves()] == [
        half.labels.tolist() for half in (selection, report)
    ]


@patiently
@given(rows=st.integers(1, 60), some=st.integers(1, 70), more=st.integers(0, 10))
def test_a_limited_split_is_a_part_of_every_larger_one(rows: int, some: int, more: int) -> None:
    whole = Examples({"text": [f"text {row}" for row in range(rows)], "label": [*range(rows)]})
    part, larger = whole.limited(some), whole.limited(some + more)
    assert len(part) == min(rows, some)
    assert set(part.rows()) <= set(larger.rows()) <= set(whole.rows())
    assert list(part.rows()) == sorted(part.rows(), key=lambda row: row[1])
    assert list(whole.limited(some).rows()) == list(part.rows())


@pytest.mark.parametrize("limits", [(8, 40), (40, 8)])
def test_truncation_is_counted_whichever_is_the_limit(limits: tuple[int, int]) -> None:
    positions, max_length = limits
    texts = [words(n) for n in (3, 6, 7, 30)]  # 5, 8, 9 and 32 tokens
    cut = encoded(texts, positions=positions, max_length=max_length)
    assert [len(row) for row in cut.features["input_ids"]] == [5, 8, 8, 8]
    assert (cut.truncated, cut.limit) == (2, 8)
    assert encoded(texts, positions=32, max_length=40).truncated == 0


def confusion(truth: Sequence[int], guess: Sequence[int]) -> tuple[int, int, int, int]:
    """True positives, false positives, false negatives, true negatives."""
    cells = list(zip(truth, guess, strict=True))
    return cells.count((1, 1)), cells.count((0, 1)), cells.count((1, 0)), cells.count((0, 0))


def measured(
    of: Task, outputs: Tensor, truth: Sequence[float], size: int = 1000
) -> dict[str, float]:
    """The loss and metrics of these outputs, taken in `size` at a time."""
    labels = torch.tensor(truth, dtype=None if isinstance(truth[0], float) else torch.int64)
    metric = of.metric()
    for start in range(0, len(labels), size):
        rows = slice(start, start + size)
        metric.update(SimpleNamespace(logits=outputs[rows]), {LABELS: labels[rows]})
    return metric.compute()


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
def test_metrics_of_a_classification(rows: list[tuple[int, int]]) -> None:
    truth, guess = [list(column) for column in zip(*rows, strict=True)]
    logits = torch.nn.functional.one_hot(torch.tensor(guess), 2).float() - 0.3
    named = classification(metrics=("f1", "matthews", "accuracy"))
    got = measured(named, logits, truth)
    assert list(got) == ["loss", "f1", "matthews", "accuracy"]
    assert measured(named, logits, truth, size=7) == got
    tp, fp, fn, tn = confusion(truth, guess)
    under = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert got["accuracy"] == pytest.approx((tp + tn) / len(rows))
    assert got["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp else 0)
    assert got["matthews"] == pytest.approx((tp * tn - fp * fn) / under if under else 0)


def pearson(x: Sequence[float], y: Sequence[float]) -> float:
    mx, my = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return over / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


def ranks(x: Sequence[float]) -> list[float]:
    """From 1; equal values share the mean of their ranks."""
    return [sum(b < a for b in x) + (sum(b == a for b in x) + 1) / 2 for a in x]


def test_correlations_of_a_regression() -> None:
    rng = random.Random(5)
    truth = [round(rng.uniform(0, 5), 1) for _ in range(60)]  # with ties
    guess = [round(value + rng.gauss(0, 1), 1) for value in truth]
    both = classification(num_labels=1, metrics=("pearson", "spearman"))
    got = measured(both, torch.tensor(guess, dtype=torch.float64)[:, None], truth)
    assert got["pearson"] == pytest.approx(pearson(guess, truth))
    assert got["spearman"] == pytest.approx(pearson(ranks(guess), ranks(truth)))
    squares = [(a - b) ** 2 for a, b in zip(guess, truth, strict=True)]
    assert got["loss"] == pytest.approx(sum(squares) / 60)
    for outputs, labels in ((torch.full((60, 1), 0.1), truth), (torch.randn(60, 1), [1.0] * 60)):
        undefined = measured(both, outputs, labels)
        assert (undefined["pearson"], undefined["spearman"]) == (0, 0)


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_losses_are_sums_over_examples(labels: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(7, labels, generator=generator, dtype=torch.float64).to(dtype)
    truth = [index % max(labels, 2) for index in range(7)]
    target = torch.tensor(truth, dtype=torch.float32 if labels == 1 else torch.int64)

    def loss(outputs: Tensor, of: Tensor) -> Tensor:
        made = classification(num_labels=labels)
        summed, count = made.loss(SimpleNamespace(logits=outputs), {LABELS: of})
        assert count == len(of)
        return summed

    total = loss(logits, target)
    assert total.shape == ()
    assert total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    rows = logits.tolist()
    expected = sum(
        (row[0] - y) ** 2 if labels == 1 else math.log(sum(map(math.exp, row))) - row[y]
        for row, y in zip(rows, truth, strict=True)
    )
    singles = sum(loss(logits[i : i + 1], target[i : i + 1]).item() for i in range(7))
    close = 1e-12 if dtype == torch.float64 else 1e-5
    assert total.item() == pytest.approx(expected, rel=close)
    assert singles == pytest.approx(expected, rel=close)


LM = CausalLM(text="sentence1", max_length=9)


def test_a_language_model_learns_every_next_token_and_no_padding() -> None:
    columns = LM.check({"sentence1": ["a cat", "the dog sees a bird"], "other": [1, 2]}, "here")
    assert list(columns.columns) == ["sentence1"]
    split = LM.encode(columns, tiny_tokenizer(), 64, CPU)
    (batch,) = split.in_order(2)
    mask = batch["attention_mask"].bool()
    assert torch.equal(batch[LABELS][mask], batch["input_ids"][mask])
    assert set(batch[LABELS][~mask].tolist()) == {-100}
    vocabulary = tiny_tokenizer().vocab_size
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*mask.shape, vocabulary, generator=generator, dtype=torch.float64)
    total, count = LM.loss(SimpleNamespace(logits=logits), batch)
    expected = []
    for row, ids in enumerate(batch["input_ids"].tolist()):
        for place in range(int(mask[row].sum()) - 1):
            scores = logits[row, place].tolist()
            expected.append(math.log(sum(map(math.exp, scores))) - scores[ids[place + 1]])
    assert int(count) == len(expected)
    assert total.item() == pytest.approx(sum(expected))
    metric = LM.metric()
    for row in range(2):  # one at a time, each as long as it is
        length = int(mask[row].sum())
        alone = {name: tensor[row : row + 1, :length] for name, tensor in batch.items()}
        metric.update(SimpleNamespace(logits=logits[row : row + 1, :length]), alone)
    measure = metric.compute()
    assert measure["loss"] == pytest.approx(sum(expected) / len(expected))
    assert measure["perplexity"] == pytest.approx(math.exp(sum(expected) / len(expected)))


def test_metrics_have_a_direction() -> None:
    assert classification().higher_is_better("accuracy")
    assert classification().higher_is_better("report_f1")
    assert not LM.higher_is_better("perplexity")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": None}, "label=null: fine-tuning needs labels"),
        ({"sentences": ()}, "must name one column or two"),
        ({"sentences": ("a", "b", "c")}, "must name one column or two"),
        ({"sentences": ("a", "a")}, "must differ"),
        ({"sentences": ("label",)}, "must differ"),
        ({"metrics": ()}, "metrics=[]: must name at least one"),
        ({"metrics": ("pearson",)}, "pearson does not fit a task with num_labels=2"),
        ({"metrics": ("f1",), "num_labels": 3}, "f1 does not fit a task with num_labels=3"),
        ({"metrics": ("accuracy",), "num_labels": 1}, "accuracy does not fit"),
    ],
)
def test_settings_of_a_classification_that_do_not_fit(changes: dict[str, Any], said: str) -> None:
    line = one_problem(classification(**changes))
    assert said in line
    assert "\n" not in line
    assert list(classification().problems(Situation())) == list(LM.problems(Situation())) == []
