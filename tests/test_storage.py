"""How frozen weights are kept: in bf16, in shards, quantized; and which attention there is."""

from pathlib import Path

import pytest
import torch
from conftest import MODELS, composed, edited, problems, tiny_config, tiny_tokenizer
from omegaconf import DictConfig
from support import load, space, task
from torch.nn import functional as F

import heterolora as hl
from heterolora import architectures
from heterolora.adapters import Adapters
from heterolora.architectures import Storage, load_pretrained
from heterolora.errors import ModelError
from heterolora.harness.config import ModelConfig, fingerprints, identity, prepare


@pytest.fixture(scope="module")
def house(checkpoints: dict[str, Path], pairs: Path) -> DictConfig:
    """A valid composed configuration, its model and data in folders."""
    folder = checkpoints["opt-post-norm"]
    overrides = ["device=cpu", "tracking=local", "task=rte", "model=opt_350m"]
    return composed(*overrides, f"model.path={folder}", f"task.path={pairs}")


def kept(folder: Path, **storage: str) -> Adapters:
    loaded = load_pretrained(folder, task().build(), storage=Storage(**storage))
    return architectures.wire(loaded.model, loaded.family, space(), loaded.head, seed=0)


def rows() -> dict[str, torch.Tensor]:
    ids = torch.tensor([[0, 5, 6, 7, 8, 2], [0, 9, 10, 2, 1, 1]])
    return {"input_ids": ids, "attention_mask": (ids != 1).long()}


@pytest.mark.parametrize("family", ["opt-post-norm", "bert", "llama", "gemma3", "deberta"])
def test_frozen_weights_in_bf16_train_adapters_and_head_in_fp32(family, checkpoints) -> None:
    adapters = kept(checkpoints[family], dtype="bf16")
    trained = adapters.named_tensors()
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}
    own = {id(tensor) for tensor in trained.values()}
    frozen = [p for p in adapters.model.parameters() if id(p) not in own]
    assert {parameter.dtype for parameter in frozen} == {torch.bfloat16}
    exact = kept(checkpoints[family]).model(**rows()).logits
    with torch.autocast("cpu", torch.bfloat16):
        logits = adapters.model(**rows()).logits
    torch.testing.assert_close(logits.float(), exact, rtol=0.1, atol=0.1)
    F.cross_entropy(logits.float(), torch.tensor([0, 1])).backward()
    for name, tensor in trained.items():
        assert tensor.grad is not None, name
        assert tensor.grad.dtype == torch.float32
        assert tensor.grad.any() != name.endswith(".A"), name  # B is zero


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
@pytest.mark.parametrize("family", ["roberta", "llama", "deberta", "modernbert"])
def test_quantized_weights_train_adapters_and_a_whole_head(
    quantization, family, checkpoints
) -> None:
    """Also on a CPU, where the configuration refuses it: bitsandbytes is slow there."""
    pytest.importorskip("bitsandbytes")
    adapters = kept(checkpoints[family], dtype="bf16", quantization=quantization, device="cpu")
    kind = {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}[quantization]
    assert {type(layer).__name__ for layer in adapters.linears.values()} == {kind}
    trained = adapters.named_tensors()
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}
    exact = kept(checkpoints[family]).model(**rows()).logits
    with torch.autocast("cpu", torch.bfloat16):
        logits = adapters.model.train()(**rows()).logits  # without a shape that 4 bits need
    torch.testing.assert_close(logits.float(), exact, rtol=0.2, atol=0.2)
    F.cross_entropy(logits.float(), torch.tensor([0, 1])).backward()
    for name, tensor in trained.items():
        assert tensor.grad is not None, name
        assert tensor.grad.any() != name.endswith(".A"), name


def test_a_checkpoint_in_shards_is_that_in_one_file(checkpoints, tmp_path) -> None:
    whole = load(checkpoints["llama"])
    whole.model.base_model.save_pretrained(tmp_path, max_shard_size="4KB")
    whole.tokenizer.save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    for (name, one), other in zip(
        whole.model.named_parameters(), load(tmp_path).model.parameters(), strict=True
    ):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("which", [0, -1])
def test_every_shard_is_in_the_fingerprint(which, checkpoints, tmp_path) -> None:
    model = load(checkpoints["llama"]).model
    model.base_model.save_pretrained(tmp_path, max_shard_size="4KB")
    tiny_tokenizer().save_pretrained(tmp_path)
    section = ModelConfig(name="tiny", path=str(tmp_path), revision=None)
    before = fingerprints.model_fingerprint(section), load(tmp_path).revision
    shard = sorted(tmp_path.glob("model-*.safetensors"))[which]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    after = fingerprints.model_fingerprint(section), load(tmp_path).revision
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_a_shard_that_is_missing_is_told(checkpoints, tmp_path) -> None:
    model = load(checkpoints["llama"]).model
    model.base_model.save_pretrained(tmp_path, max_shard_size="4KB")
    tiny_tokenizer().save_pretrained(tmp_path)
    sorted(tmp_path.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(ModelError) as refused:
        load(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (["model.dtype=fp32", "model.quantization=null"], True),
        (["model.dtype=bf16", "precision=bf16"], False),
    ],
)
def test_how_weights_are_kept_is_part_of_what_a_run_is(change, same, house) -> None:
    plain = prepare(edited(house, *[c for c in change if c.startswith("precision")]))
    assert (identity(prepare(edited(house, *change))) == identity(plain)) is same


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ["model.dtype=bf16"],
            "model.dtype=bf16: needs forward passes in bf16, but precision=auto",
        ),
        (
            ["model.dtype=bf16", "precision=fp32"],
            "needs forward passes in bf16; set precision=bf16",
        ),
        (["model.dtype=fp16"], "model.dtype"),
        (["model.quantization=8bit"], "model.quantization=8bit: needs a GPU, but device=cpu is"),
        (["model.attn_implementation=flash_attention_2"], "flash_attention_2: needs a GPU"),
    ],
)
def test_what_cannot_be_is_said_before_weights_are_loaded(change, said, house) -> None:
    (line,) = problems(edited(house, *change))
    assert said in line
    assert "\n" not in line


def test_what_reads_or_trains_frozen_weights_is_refused(checkpoints, pairs) -> None:
    place = checkpoints["opt-post-norm"], pairs, Path("somewhere")
    kept_so = ["model.quantization=4bit", "model.dtype=bf16", "precision=bf16"]
    lines = problems(tiny_config(*place, *kept_so, "method=full", "strategy=homogeneous"))
    assert sum("method=full trains the model's own parameters" in line for line in lines) == 2
    lines = problems(tiny_config(*place, *kept_so, "proxy=synflow"))
    assert any(
        line.startswith("proxy=synflow: computes with the model's weights") for line in lines
    )


@pytest.mark.parametrize("method", ["dora", "eva", "adalora"])
def test_a_method_of_peft_on_parts_of_a_layer_is_refused(method, checkpoints, pairs) -> None:
    place = checkpoints["modernbert"], pairs, Path("somewhere")
    (line,) = problems(tiny_config(*place, f"method={method}"))
    assert line.startswith(f"method={method}: adapts whole layers, but q, v of modernbert models")
    prepare(tiny_config(*place, f"method={method}", "search_space.projections=[o,down]"))
    prepare(tiny_config(*place, "method=prefix"))


@pytest.mark.parametrize("family", ["gemma2", "deberta"])
def test_an_attention_that_a_model_has_not_is_refused(family, checkpoints, house) -> None:
    path = f"model.path={checkpoints[family]}"
    (line,) = problems(edited(house, path, "model.attn_implementation=sdpa"))
    assert (
        "models do not support this attention; set model.attn_implementation=null, or eager" in line
    )


def test_the_attention_is_the_one_that_is_asked_for(checkpoints) -> None:
    model = kept(checkpoints["llama"], attention="eager").model
    assert model.config._attn_implementation == "eager"
    exact = kept(checkpoints["llama"]).model
    assert exact.config._attn_implementation != "eager"
    torch.testing.assert_close(model(**rows()).logits, exact(**rows()).logits)


def test_nothing_is_merged_into_quantized_weights(tmp_path) -> None:
    torch.manual_seed(0)
    hl.save(hl.adapt(MODELS["llama"](), {"q": 2}), tmp_path)
    model = MODELS["llama"]()
    model.is_quantized = True
    with pytest.raises(ModelError, match="quantized") as refused:
        hl.merge(model, tmp_path)
    assert "\n" not in str(refused.value)
