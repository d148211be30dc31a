"""A run's weights for others, by the command; and the examples."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, CommandLine, sentence_pairs, tiny_tokenizer, write_parquet
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

import heterolora as hl
from heterolora.errors import RecordError
from heterolora.harness.cli.commands import export
from heterolora.harness.cli.main import main
from heterolora.harness.config import plugins

IDS = torch.tensor([[0, 5, 6, 7, 8, 2], [0, 9, 10, 2, 1, 1]])
ROWS = {"input_ids": IDS, "attention_mask": (IDS != 1).long()}


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**ROWS).logits


def base(path: Path) -> torch.nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)


def test_every_target_has_the_logits_of_the_run(
    finished_run: Path,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = finished_run
    model = base(checkpoints["opt-post-norm"])
    hl.load(model, run / "checkpoint" / "best.safetensors")
    expected = logits(model)
    folders = {to: tmp_path / to for to in ("peft", "merged", "heterolora")}
    for to, folder in folders.items():
        export.main([str(run), str(folder), "--to", to])
        assert str(folder) in capfd.readouterr().out
        assert AutoTokenizer.from_pretrained(folder).pad_token == "<pad>"
    found = {
        "peft": PeftModel.from_pretrained(base(checkpoints["opt-post-norm"]), folders["peft"]),
        "merged": AutoModelForSequenceClassification.from_pretrained(folders["merged"]),
        "heterolora": base(checkpoints["opt-post-norm"]),
    }
    hl.load(found["heterolora"], folders["heterolora"])
    for to, one in found.items():
        assert (logits(one) - expected).abs().max() <= 1e-6, to

    result = json.loads((run / "run.json").read_text())
    export.main([str(run), str(folders["peft"]), "--to", "merged"])  # of one, nothing is left
    again = AutoModelForSequenceClassification.from_pretrained(folders["peft"])
    assert (logits(again) - expected).abs().max() <= 1e-6
    export.main([str(run), str(folders["peft"])])
    assert not list(folders["peft"].glob("model*"))
    assert {file.name for file in tmp_path.iterdir()} == {*folders}  # and nothing beside them
    card = ModelCard.load(folders["peft"] / "README.md")
    assert card.data.library_name == "peft"
    accuracy = result["best"]["accuracy"]
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == [
        ("accuracy", pytest.approx(accuracy, abs=1e-6))
    ]
    assert f"| adapter parameters | {result['parameters']['enabled']:,} (budget" in card.text
    assert "PeftModel.from_pretrained(model, " in card.text


def test_the_last_weights_and_a_model_that_moved(
    own_run: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    run = own_run
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(checkpoints["opt-post-norm"]), "gone"))
    here = str(checkpoints["opt-post-norm"])
    export.main([str(run), str(tmp_path / "out"), "--weights", "last", "--model", here])
    model = base(checkpoints["opt-post-norm"])
    hl.load(model, run / "checkpoint" / "last.safetensors")
    found = PeftModel.from_pretrained(base(checkpoints["opt-post-norm"]), tmp_path / "out")
    assert (logits(found) - logits(model)).abs().max() <= 1e-6


def script(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def command(*arguments: object) -> int:
    """The exit code of `python scripts/export.py ...`, if it is not 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["scripts/export.py", *map(str, arguments)])
        return main()


def test_what_cannot_be_exported_is_one_line(
    train: CommandLine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train(
        *("search_space=lora_shortcuts", "rank_budget.shortcut_rank=1"),
        *("strategy=static", "training.epochs=1"),
    ).record
    capfd.readouterr()
    assert command(run, "--to", "peft", tmp_path / "out") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "--to heterolora" in line
    assert not (tmp_path / "out").exists()
    assert command(run, "--to", "heterolora", tmp_path / "out") == 0
    assert "heterolora.load(model, " in capfd.readouterr().out
    result = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(result | {"status": "interrupted"}))
    with pytest.raises(RecordError, match="is interrupted, not finished; run its command again"):
        export.main([str(run), str(tmp_path / "other")])


@pytest.mark.slow
@pytest.mark.parametrize("example", ["suggest", "trainer"])
def test_the_examples_run(example: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "data", train=sentence_pairs(40, seed=1))
    out = tmp_path / "out"
    done = script(
        f"scripts/examples/{example}.py", checkpoints["bert"], data / "train.parquet", out
    )
    assert done.returncode == 0, done.stderr
    folder = out / "adapter" if example == "trainer" else out
    PeftModel.from_pretrained(base(checkpoints["bert"]), folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert set(config["rank_pattern"].values()) == {8}


@pytest.mark.slow
def test_the_example_with_trl_runs(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 32}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads, pad_token_id=1)).save_pretrained(
        tmp_path / "model"
    )
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    file = tmp_path / "texts.jsonl"
    texts = sentence_pairs(40, seed=1)["sentence1"]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    done = script("scripts/examples/sft.py", tmp_path / "model", file, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    costs = {"q_proj": 16 + 16, "v_proj": 16 + 8}
    spent = sum(costs[n.rpartition(".")[2]] * r for n, r in config["rank_pattern"].items())
    assert abs(spent - 2 * 2 * sum(costs.values())) <= max(costs.values()) / 2
    assert (tmp_path / "out" / "allocations.jsonl").exists()


def test_every_kind_of_task_has_a_name_at_the_hub() -> None:
    assert {*plugins.choices("task")} == {*export.TASKS}


def test_commands_in_one_place() -> None:
    done = script("-m", "heterolora", "--help")
    assert done.returncode == 0
    assert {"run", "report", "export", "suggest", "prefetch"} <= set(done.stdout.split())
    done = script("-m", "heterolora", "sugest")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: sugest: there is no such command; choose one of run,")
