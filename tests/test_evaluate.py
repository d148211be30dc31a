"""A run's language model on a benchmark: MMLU by lm-evaluation-harness, and by hand."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import WORDS, composed, edited, run_config, tiny_tokenizer, write_parquet
from test_language import TEXTS, language_model
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer

from heterolora.errors import ConfigError, RecordError
from heterolora.harness.cli.commands import evaluate, export

LETTERS = "ABCD"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that can read a few questions, and whose tokenizer has their words.

    As a decoder's, it puts a token before a text and none behind it.
    """
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    assert tokenizer.add_tokens([*LETTERS, ".", ":", "Answer", "questions", "choice"]) == 9
    language_model("llama", max_position_embeddings=400, vocab_size=32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def trained(model: Path, tmp_path: Path) -> Path:
    """A run that has learned something."""
    rows: dict[str, list[object]] = {"text": [*TEXTS] * 4}
    write_parquet(tmp_path / "wiki", train=rows, validation={"text": ["a red bird sees no dog"]})
    groups = ("task=wikitext2", "tracking=local", "device=cpu", "strategy=homogeneous")
    values = (
        *(f"task.path={tmp_path / 'wiki'}", f"model.path={model}", f"output={tmp_path}"),
        *("task.max_length=12", "training.epochs=1", "training.batch_size=4"),
        "optimizer.learning_rate=0.02",
    )
    return run_config(edited(composed(*groups), *values)).record


def test_what_cannot_be_evaluated_is_one_line(
    trained: Path,
    finished_run: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # as where it is not installed
    with pytest.raises(
        ConfigError, match=r"lm-evaluation-harness is not installed .*; pip install 'heterol"
    ):
        evaluate.main([str(trained), "--task", "mmlu"])
    with pytest.raises(
        RecordError, match=r"is a run of task=rte, which is not a language model; give a"
    ):
        evaluate.main([str(finished_run), "--task", "mmlu"])


def questions(count: int, subject: str, seed: int) -> dict[str, list[Any]]:
    """In the schema of cais/mmlu."""
    generator = torch.Generator().manual_seed(seed)

    def words(number: int) -> str:
        picked = torch.randint(len(WORDS), (number,), generator=generator).tolist()
        return " ".join(WORDS[i] for i in picked)

    return {
        "question": [words(5) for _ in range(count)],
        "subject": [subject] * count,
        "choices": [[words(2) for _ in LETTERS] for _ in range(count)],
        "answer": torch.randint(4, (count,), generator=generator).tolist(),
    }


SUBJECTS = {"birds": 40, "old_dogs": 25}


def write_benchmark(folder: Path) -> dict[str, dict[str, dict[str, list[Any]]]]:
    """Two subjects and their group, as MMLU's files have them; returns the questions."""
    made = {}
    for seed, (subject, count) in enumerate(SUBJECTS.items()):
        sizes = {"dev": 5, "test": count}
        of = {split: questions(n, subject, 9 * seed + n) for split, n in sizes.items()}
        made[subject] = of
        write_parquet(folder / subject, **of)
        files = {split: str(folder / subject / f"{split}.parquet") for split in of}
        (folder / f"tiny_{subject}.yaml").write_text(
            f"task: tiny_{subject}\n"
            "dataset_path: parquet\n"
            f"dataset_kwargs: {json.dumps({'data_files': files})}\n"
            "test_split: test\nfewshot_split: dev\nfewshot_config: {sampler: first_n}\n"
            "output_type: multiple_choice\n"
            'doc_to_text: "{{question.strip()}}\\nA. {{choices[0]}}\\nB. {{choices[1]}}\\n'
            'C. {{choices[2]}}\\nD. {{choices[3]}}\\nAnswer:"\n'
            "doc_to_choice: [A, B, C, D]\ndoc_to_target: answer\n"
            f'description: "choice questions\\n\\n"\n'
            "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
        )
    (folder / "tiny_mmlu.yaml").write_text(
        f"group: tiny_mmlu\ntask: {json.dumps([f'tiny_{s}' for s in SUBJECTS])}\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    return made


def asked_of(rows: dict[str, list[Any]], row: int) -> str:
    """MMLU's prompt of a question, without its answer."""
    choices = [f"{a}. {text}" for a, text in zip(LETTERS, rows["choices"][row], strict=True)]
    return "\n".join([rows["question"][row], *choices, "Answer:"])


def by_hand(model: Any, tokenizer: Any, made: dict[str, dict[str, list[Any]]]) -> list[int]:
    """Of each question the likeliest letter, after five with their answers."""
    dev, test = made["dev"], made["test"]
    shown = "".join(f"{asked_of(dev, i)} {LETTERS[dev['answer'][i]]}\n\n" for i in range(5))
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in LETTERS]
    likeliest = []
    for row in range(len(test["answer"])):
        text = f"choice questions\n\n{shown}{asked_of(test, row)}"
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0, -1, letters].tolist()
        likeliest.append(scores.index(max(scores)))
    return likeliest


@pytest.mark.slow
def test_mmlu_is_the_harness_s_own_and_that_by_hand(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="needs the extra lm-eval")
    made = write_benchmark(tmp_path / "tasks")
    evaluate.main(
        [
            *(str(trained), "--task", "tiny_mmlu", "--shots", "5"),
            *("--include", str(tmp_path / "tasks"), "--batch-size", "3"),
        ]
    )
    out = capfd.readouterr().out
    found = json.loads((trained / "evaluations" / "tiny_mmlu-best.json").read_text())
    assert set(found["n-shot"].values()) == {5}
    export.main([str(trained), str(tmp_path / "merged"), "--to", "merged"])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    from lm_eval.tasks import TaskManager

    other = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tmp_path / "merged"), "device": "cpu", "dtype": "float32"},
        tasks=["tiny_mmlu"],
        num_fewshot=5,
        task_manager=TaskManager(include_path=str(tmp_path / "tasks")),
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    answered = {s: by_hand(merged, tokenizer, made[s]) for s in SUBJECTS}
    assert len({letter for said in answered.values() for letter in said}) > 1
    right = {
        subject: sum(a == b for a, b in zip(said, made[subject]["test"]["answer"], strict=True))
        for subject, said in answered.items()
    }
    assert all(0 < right[subject] < count for subject, count in SUBJECTS.items())
    for subject, count in SUBJECTS.items():
        accuracy = found["results"][f"tiny_{subject}"]["acc,none"]
        assert accuracy == other["results"][f"tiny_{subject}"]["acc,none"]
        assert accuracy == pytest.approx(right[subject] / count)
        assert f"{accuracy:.4f}" in out
    mean = found["groups"]["tiny_mmlu"]["acc,none"]
    assert mean == other["groups"]["tiny_mmlu"]["acc,none"]
    assert mean == pytest.approx(sum(right.values()) / sum(SUBJECTS.values()))
    with pytest.raises(ConfigError, match=r"^--task=mmlu_anatom: .* no such task; did you mean mm"):
        evaluate.main([str(trained), "--task", "mmlu_anatom"])
