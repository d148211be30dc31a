"""The planted task: its sites, its teacher, its answers; and the kind of task that it is."""

from pathlib import Path

import pytest
import torch
from conftest import CommandLine, composed, edited, problems
from omegaconf import DictConfig
from torch import Tensor
from transformers import AutoTokenizer, OPTForCausalLM

from heterolora.errors import DataError
from heterolora.harness.config import identity, prepare
from heterolora.harness.config.embedded import MODELS, STARTER, TEACHER
from heterolora.harness.config.fingerprints import split_fingerprint
from heterolora.harness.data import sources
from heterolora.harness.data.planted import TASK, answers, planted_sites, teacher
from heterolora.harness.records.load import load
from heterolora.tasks.token_labels import NONE, TokenLabels

MODEL_DIR = MODELS[STARTER]
TEXTS = ["leon fooled irene . in other words , irene was fooled by leon .", "klara slept .", "no ."]


@pytest.fixture(scope="module")
def planted() -> DictConfig:
    return composed("device=cpu", "tracking=local", "task=starter_planted")


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def test_a_planting_says_which_sites() -> None:
    found = [planted_sites(planting) for planting in range(5)]
    assert found == [planted_sites(planting) for planting in range(5)]
    assert all(
        start <= site.layer < stop
        for sites in found
        for site, (start, stop) in zip(sites, TEACHER.halves, strict=True)
    )
    assert {site.role for sites in found for site in sites} == {"v"}
    assert len(set(found)) > 2


def test_the_teacher_is_the_embedded_model_but_for_its_sites() -> None:
    """The values of its layers are `model.decoder.layers.<layer>.self_attn.v_proj`."""
    base = weights(OPTForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32))
    for planting in (0, 3):
        changed = weights(teacher(planting, TASK).model)
        differ = {name for name in base if not torch.equal(base[name], changed[name])}
        assert differ == {
            f"model.decoder.layers.{site.layer}.self_attn.v_proj.weight"
            for site in planted_sites(planting)
        }
        for name in differ:
            change = (changed[name] - base[name]).double()
            values = torch.linalg.svdvals(change)
            assert values[: TEACHER.rank].min() == pytest.approx(values[0].item(), rel=1e-4)
            assert values[TEACHER.rank] < 1e-5 * values[0]
            assert change.norm().item() == pytest.approx(
                TEACHER.size * base[name].norm().item(), rel=1e-4
            )


def test_an_answer_is_what_the_teacher_would_say_next() -> None:
    """Text by text, in another precision; the base model would say other things."""
    columns = answers(TEXTS, 1)
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    changed = teacher(1, TASK).model.double()
    base = OPTForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float64)
    otherwise = asked = 0
    for text, labels in zip(columns["text"], columns["label"], strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        said = changed(ids).logits[0]
        assert len(labels) == len(said)
        for label, logits, own in zip(labels, said, base(ids).logits[0], strict=True):
            first, second = logits.topk(2).values.tolist()
            assert label == (int(logits.argmax()) if first - second >= 0.2 else NONE)
            asked += label != NONE
            otherwise += label not in (NONE, int(own.argmax()))
    assert otherwise > asked / 5


def test_the_same_planting_gives_the_same_answers() -> None:
    assert answers(TEXTS, 2) == answers(TEXTS, 2)
    assert answers(TEXTS, 2)["label"] != answers(TEXTS, 3)["label"]


def test_the_data_is_told_by_its_planting(planted: DictConfig) -> None:
    configs = [prepare(edited(planted, f"task.planting={planting}")) for planting in (0, 1, 0)]
    first, second, again = (split_fingerprint(config.task, "train") for config in configs)
    assert first == again != second
    assert identity(configs[0]) == identity(configs[2]) != identity(configs[1])


def test_what_goes_with_the_planted_task(planted: DictConfig) -> None:
    for change, line in {
        "task.planting=null": "task.planting=null: heterolora/starter-planted needs a seed",
        "task.planting=-1": "task.planting=-1: ",
        "model.name=facebook/opt-125m": "model.name=facebook/opt-125m: task heterolora",
    }.items():
        asked = edited(planted, change, "offline=true")
        assert any(one.startswith(line) for one in problems(asked)), change
    other = composed("device=cpu", "tracking=local")
    (line,) = problems(edited(other, "task.planting=1"))
    assert line.startswith("task.planting=1: has no effect with the embedded task")


def test_a_run_records_the_right_sites(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"train": TEXTS, "validation": TEXTS[:2]}
    monkeypatch.setattr(sources, "_answered", lambda split, p: answers(few[split], p))
    done = command_line(
        *("task=starter_planted", "task.planting=4", "training.epochs=1", "strategy=static"),
        *("device=cpu", "tracking=local", f"output={tmp_path}"),
    )
    assert done.code == 0, done.err
    (run,), _ = load(tmp_path)
    assert run.provenance.data is not None
    assert run.provenance.data["planted"] == [str(site) for site in planted_sites(4)]
    assert run.result.parameters is not None
    assert run.result.parameters.head == 0


# ---- labels of tokens


def test_labels_of_tokens_are_checked() -> None:
    task = TokenLabels(text="text", label="label", max_length=8)
    for wrong in ([1, 2.0], "12", None, [True]):
        with pytest.raises(DataError, match="row 1 of column 'label' must be a list of whole"):
            task.check({"text": ["a", "b"], "label": [[1], wrong]}, "here")
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    few = task.check({"text": ["leon slept"], "label": [[1, 2]]}, "here")
    with pytest.raises(DataError, match="has 2 labels up to 2, but its text has 4 tokens"):
        task.encode(few, tokenizer, 128, torch.device("cpu"))
    many = task.check({"text": ["leon slept"], "label": [[1, 2, 3, 10**6]]}, "here")
    with pytest.raises(DataError, match="label the texts with the tokens of model"):
        task.encode(many, tokenizer, 128, torch.device("cpu"))


def test_a_loss_is_counted_by_its_labels() -> None:
    """In parts of a batch too, whose share of the mean is by what the whole batch counts."""
    task = TokenLabels(text="text", label="label", max_length=8)
    batch = {"labels": torch.tensor([[0, 1, NONE], [NONE, 1, 1]])}
    output = type("Output", (), {"logits": torch.zeros(2, 3, 5)})
    _, count = task.loss(output, batch)
    assert int(count) == int(task.count(batch)) == 4


def test_accuracy_is_the_share_of_all_labels() -> None:
    task = TokenLabels(text="text", label="label", max_length=8)
    metric = task.metric()
    logits = torch.tensor([[[2.0, 0.0], [0.0, 2.0], [0.0, 9.0]], [[0.0, 2.0], [0.0, 2.0], [9, 0]]])
    for row, labels in enumerate(([[0, 1, NONE]], [[0, NONE, NONE]])):
        output = type("Output", (), {"logits": logits[row : row + 1]})
        metric.update(output, {"labels": torch.tensor(labels)})
    numbers = metric.compute()
    right, wrong = torch.tensor([2.0, 0.0]).log_softmax(0).neg().tolist()
    assert numbers["accuracy"] == pytest.approx(2 / 3)
    assert numbers["loss"] == pytest.approx((2 * right + wrong) / 3)
