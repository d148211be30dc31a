"""To PEFT and back: configuration, shapes, factors and logits, and what PEFT has no place for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import FUSED, MODELS
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from support import covering
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

import heterolora as hl
from heterolora.errors import ModelError

IDS = torch.tensor([[0, 5, 6, 7, 8, 2], [0, 9, 10, 2, 1, 1], [0, 11, 5, 3, 2, 1]])
ROWS = {"input_ids": IDS, "attention_mask": (IDS != 1).long()}


def fresh(path: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(path).eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**ROWS).logits


def trained(path: Path, **settings: object) -> hl.Adapters:
    """Adapters of mixed rank, none of whose matrices is zero, and a head of its own."""
    roles = {"q": 6, "v": 4}
    adapters = hl.adapt(fresh(path), roles, budget_ranks={"q": 2, "v": 2}, **settings)
    generator = torch.Generator().manual_seed(1)
    for tensor in adapters.named_tensors().values():
        tensor.data.normal_(std=0.3, generator=generator)
    sites = [site for site in adapters if site.kind == "lora"]
    adapters.apply(dict(zip(sites, [6, 0, 3, 4, 0, 1], strict=True)))
    return adapters


@pytest.mark.parametrize(
    ("family", "scaling"),
    covering(
        [name for name in MODELS if name not in FUSED],
        ["alpha_over_rank", "alpha_over_budget_rank", "rslora"],
    ),
)
def test_peft_computes_the_same(
    family: str, scaling: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    adapters = trained(checkpoints[family], scaling=scaling, lora_alpha=5)
    hl.to_peft(adapters, tmp_path)
    model = PeftModel.from_pretrained(fresh(checkpoints[family]), tmp_path)
    assert (logits(model) - logits(adapters.model)).abs().max() <= 1e-6

    layers = {
        name: module
        for name, module in model.get_base_model().named_modules()
        if hasattr(module, "lora_A")
    }
    factors = {
        "alpha_over_rank": lambda rank: 5 / rank,
        "alpha_over_budget_rank": lambda rank: 5 / 2,
        "rslora": lambda rank: 5 / rank**0.5,
    }
    found = {}
    for name, module in layers.items():
        rank = module.lora_A["default"].weight.shape[0]
        assert module.lora_B["default"].weight.shape[1] == rank
        assert module.scaling["default"] == pytest.approx(factors[scaling](rank), rel=1e-12)
        found[name] = rank
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert sorted(found.values()) == [1, 3, 4, 6]
    assert config["rank_pattern"] == found
    assert sorted(config["target_modules"]) == sorted(found)

    merged = model.merge_and_unload()
    assert (logits(merged) - logits(adapters.model)).abs().max() <= 2e-6


@pytest.mark.parametrize("family", FUSED)
def test_parts_of_a_layer_are_refused(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    adapters = trained(checkpoints[family])
    with pytest.raises(ModelError, match=r"q: is only a part of .*qkv") as refused:
        hl.to_peft(adapters, tmp_path)
    assert "\n" not in str(refused.value)
    hl.save(adapters, tmp_path / "own")
    merged = fresh(checkpoints[family])
    hl.merge(merged, tmp_path / "own")
    assert (logits(merged) - logits(adapters.model)).abs().max() <= 2e-6
    adapters = hl.adapt(fresh(checkpoints[family]), {"o": 2})
    for adapter in adapters.values():
        adapter.B.data.normal_(std=0.3)
    hl.to_peft(adapters, tmp_path)  # what is a layer of its own
    model = PeftModel.from_pretrained(fresh(checkpoints[family]), tmp_path)
    assert (logits(model) - logits(adapters.model)).abs().max() <= 1e-6


SCRIPT = """
import json, sys, torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
torch.manual_seed(7)  # another head, had it to be drawn
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
model = PeftModel.from_pretrained(model, sys.argv[2]).eval()
ids = torch.tensor(json.loads(sys.argv[3]))
print(json.dumps(model(input_ids=ids, attention_mask=(ids != 1).long()).logits.tolist()))
"""


def test_a_folder_has_what_peft_reads_and_a_card(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    hl.to_peft(trained(checkpoints["bert"]), tmp_path, card="# A card")
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    assert (tmp_path / "README.md").read_text() == "# A card"


@pytest.mark.slow
def test_a_process_without_this_project_computes_the_same(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """As `test_peft_computes_the_same`, but nothing here can have changed PEFT or Transformers."""
    adapters = trained(checkpoints["bert"])
    hl.to_peft(adapters, tmp_path / "out")
    arguments = [checkpoints["bert"], tmp_path / "out", json.dumps(IDS.tolist())]
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = torch.tensor(json.loads(done.stdout))
    assert (theirs - logits(adapters.model)).abs().max() <= 1e-6


def test_the_same_adapters_come_back(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    adapters = trained(checkpoints["bert"], scaling="rslora")
    hl.to_peft(adapters, tmp_path)
    again = hl.from_peft(fresh(checkpoints["bert"]), tmp_path)
    assert again.ranks == adapters.ranks
    assert again.head.keys() == adapters.head.keys()
    assert (logits(again.model) - logits(adapters.model)).abs().max() <= 1e-6
    hl.to_peft(again, tmp_path / "again")
    model = PeftModel.from_pretrained(fresh(checkpoints["bert"]), tmp_path / "again")
    assert (logits(model) - logits(adapters.model)).abs().max() <= 1e-6


def test_an_adapter_that_peft_trained_is_read(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["query", "dense"],
        exclude_modules=["pooler.dense", "bert.pooler.dense"],
        rank_pattern={"layer.1.attention.self.query": 2},
        alpha_pattern={"layer.2.attention.self.query": 3},
        use_rslora=True,
        task_type="SEQ_CLS",
    )
    model = get_peft_model(fresh(checkpoints["bert"]), config)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.2, generator=generator)
    model.save_pretrained(tmp_path)
    adapters = hl.from_peft(fresh(checkpoints["bert"]), tmp_path)
    assert {site.role for site in adapters} == {"q", "o", "up", "down"}
    assert adapters.ranks[hl.Site(1, "q")] == 2
    assert (logits(adapters.model) - logits(model)).abs().max() <= 1e-6


def test_what_is_no_plain_lora_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["query"], use_dora=True)
    get_peft_model(fresh(checkpoints["bert"]), config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"not a plain LoRA adapter \(use_dora\)"):
        hl.from_peft(fresh(checkpoints["bert"]), tmp_path)
    config = LoraConfig(r=2, target_modules=["query"], init_lora_weights="pissa")
    get_peft_model(fresh(checkpoints["bert"]), config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"\(init_lora_weights=pissa\)"):
        hl.from_peft(fresh(checkpoints["bert"]), tmp_path)
    with pytest.raises(ModelError, match="nowhere: cannot be read"):
        hl.from_peft(fresh(checkpoints["bert"]), "nowhere")


@pytest.mark.parametrize(
    ("family", "renormalize"), [("bert", "enabled"), ("opt-pre-norm", "always")]
)
def test_shortcuts_are_refused_where_they_are_on(
    family: str, renormalize: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    adapters = trained(
        checkpoints[family], shortcuts={"res1": 2, "cut": 2}, renormalize=renormalize
    )
    hl.to_peft(adapters, tmp_path)
    model = PeftModel.from_pretrained(fresh(checkpoints[family]), tmp_path)
    assert (logits(model) - logits(adapters.model)).abs().max() <= 1e-6
    adapters.apply({**adapters.ranks, hl.Site(1, "cut"): 1})
    for export in (
        hl.to_peft,
        lambda one, to: (hl.save(one, to), hl.merge(fresh(checkpoints[family]), to)),
    ):
        with pytest.raises(ModelError, match=r"1 shortcuts are on \(first: layers.1.cut\)"):
            export(adapters, tmp_path / "other")


def test_a_second_norm_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    adapters = trained(checkpoints["bert"], shortcuts={"in": 2})
    with pytest.raises(ModelError, match=r"normalize twice.*heterolora\.save"):
        hl.to_peft(adapters, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_on_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    adapters = trained(checkpoints["bert"])
    adapters.apply({})
    with pytest.raises(ModelError, match="no site is on"):
        hl.to_peft(adapters, tmp_path)


def test_a_part_of_a_module_as_head_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    model = fresh(checkpoints["bert"])
    adapters = hl.adapt(model, {"q": 2}, head=[model.classifier.weight])
    with pytest.raises(ModelError, match=r"classifier\.weight: is trained, but is only a part"):
        hl.to_peft(adapters, tmp_path)


def test_a_tied_head_is_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32, "vocab_size": 32}
    config = LlamaConfig(**sizes, num_attention_heads=4, tie_word_embeddings=True)
    model = LlamaForCausalLM(config)
    adapters = hl.adapt(model, {"q": 2}, head=[model.lm_head.weight])
    with pytest.raises(ModelError, match="is trained and tied to another weight"):
        hl.to_peft(adapters, tmp_path)


def test_a_pooler_that_is_trained_goes_along(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = fresh(checkpoints["bert"])
    head = [*model.classifier.parameters(), *model.bert.pooler.parameters()]
    adapters = hl.adapt(model, {"q": 2}, head=head)
    for tensor in adapters.named_tensors().values():
        tensor.data.normal_(std=0.3)
    hl.to_peft(adapters, tmp_path)
    assert len(load_file(tmp_path / "adapter_model.safetensors")) == 3 * 2 + 4
    again = PeftModel.from_pretrained(fresh(checkpoints["bert"]), tmp_path)
    assert (logits(again) - logits(model)).abs().max() <= 1e-6


@pytest.mark.parametrize("family", ["opt-post-norm", "llama"])
def test_a_merged_checkpoint_is_an_ordinary_one(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    adapters = trained(checkpoints[family])
    hl.save(adapters, tmp_path / "own")
    model = fresh(checkpoints[family])
    assert hl.merge(model, tmp_path / "own") is None
    model.save_pretrained(tmp_path / "merged")
    torch.manual_seed(5)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert (logits(again) - logits(adapters.model)).abs().max() <= 1e-6
    bare = AutoModel.from_pretrained(checkpoints[family])
    with pytest.raises(ModelError, match="has a head"):
        hl.merge(bare, tmp_path / "own")
