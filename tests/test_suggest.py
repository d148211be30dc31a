"""An allocation for a model that somebody loaded."""

import copy
import json
from pathlib import Path

import pytest
import torch
from conftest import FUSED, MODELS
from peft import get_peft_model
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

import heterolora as hl
from heterolora.errors import AllocationError, DataError, ModelError
from heterolora.harness.cli.commands import suggest as command
from heterolora.losses import cross_entropy, usual_loss


def batches(count: int = 4) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        ids = torch.randint(4, 20, (8, 9), generator=generator)
        labels = torch.randint(0, 2, (8,), generator=generator)
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return made


def classifier(path: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(path)


def causal() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "intermediate_size": 32, "vocab_size": 32}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, pad_token_id=1))


@pytest.mark.parametrize("family", [name for name in MODELS if name not in FUSED])
def test_the_config_makes_a_model_of_those_ranks(family: str, checkpoints: dict[str, Path]) -> None:
    model = classifier(checkpoints[family])
    found = hl.suggest(model, batches(), budget_rank=2, selection="proportional")
    assert found.examples == 32
    assert found.allocation.parameters == pytest.approx(found.budget, rel=0.1)
    config = found.to_peft(lora_dropout=0.1, modules_to_save=["score", "classifier"])
    assert config.lora_dropout == 0.1
    peft = get_peft_model(model, config).get_base_model()
    ranks = {
        name: (module.r["default"], module.scaling["default"])
        for name, module in peft.named_modules()
        if hasattr(module, "lora_A")
    }
    assert sorted(rank for rank, _ in ranks.values()) == sorted(
        r for r in found.ranks.values() if r
    )
    assert {scaling for _, scaling in ranks.values()} == {16 / 2}
    for site, rank in found.ranks.items():
        here = [
            r for n, (r, _) in ranks.items() if f".{site.layer}." in n and _role(n) == site.role
        ]
        assert here == ([rank] if rank else [])


@pytest.mark.parametrize("family", FUSED)
def test_parts_of_a_layer_have_ranks_and_no_config_of_peft(
    family: str, checkpoints: dict[str, Path]
) -> None:
    found = hl.suggest(classifier(checkpoints[family]), batches(), budget_rank=2)
    assert {site.role for site in found.ranks} == {"q", "v"}
    assert found.allocation.parameters == pytest.approx(found.budget, rel=0.4)
    with pytest.raises(
        ModelError, match=r"[qv]: is only a part of .*qkv.* PEFT adapts whole"
    ) as told:
        found.to_peft()
    assert "\n" not in str(told.value)


def _role(name: str) -> str:
    return {"q": "q", "v": "v"}[name.rpartition(".")[2][0]]  # query, query_proj, q_proj


def test_it_says_what_a_search_of_the_library_says(checkpoints: dict[str, Path]) -> None:
    """The scores of the model itself, wired."""
    model = classifier(checkpoints["bert"])
    found = hl.suggest(model, batches(), budget_rank=2, enable_rate=0.5)
    adapters = hl.adapt(model, {"q": 4, "v": 4}, budget_ranks={"q": 2, "v": 2})
    scores = hl.proxies.GradNorm().scores(adapters, batches())
    assert found.scores == scores
    assert found.ranks == hl.select(scores, adapters, found.budget).ranks
    assert found.budget == adapters.count // 2


def test_ranks_go_where_they_gain_most(checkpoints: dict[str, Path]) -> None:
    """Of the ranks that are on, none gains less than one that is off: all cost the same here."""
    settings = {"budget_rank": 2, "enable_rate": 0.5, "selection": "waterfill"}
    found = hl.suggest(classifier(checkpoints["bert"]), batches(), proxy="gradsvd", **settings)
    adapters = hl.adapt(
        classifier(checkpoints["bert"]), {"q": 4, "v": 4}, budget_ranks={"q": 2, "v": 2}
    )
    assert len(set(adapters.unit_costs.values())) == 1
    gains = hl.proxies.GradSvd().gains(adapters, batches())
    on = [gain for site, values in gains.items() for gain in values[: found.ranks[site]]]
    off = [gain for site, values in gains.items() for gain in values[found.ranks[site] : 4]]
    assert min(on) >= max(off)
    assert len(on) == 2 * len(adapters)
    with pytest.raises(AllocationError, match=r"^selection=waterfill: needs the gain of each rank"):
        hl.suggest(classifier(checkpoints["bert"]), batches(), **settings)


@pytest.mark.parametrize("proxy", ["gradnorm", "snip", "synflow", "constant"])
def test_the_model_is_left_untouched(proxy: str, checkpoints: dict[str, Path]) -> None:
    model = classifier(checkpoints["opt-post-norm"]).train()
    model.model.decoder.layers[0].fc1.weight.requires_grad_(False)
    hooks: list[int] = []
    model.register_forward_pre_hook(lambda *_: hooks.append(1))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    modules, config = [type(m) for m in model.modules()], copy.deepcopy(model.config.to_dict())
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    hl.suggest(model, batches(), proxy=proxy, budget_rank=2)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(weights[name], t) for name, t in model.state_dict().items())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert all(p.grad is None for p in model.parameters())
    assert [type(m) for m in model.modules()] == modules
    assert model.config.to_dict() == config
    assert all(module.training for module in model.modules())


def test_a_language_model_and_a_loss_of_ones_own() -> None:
    model = causal()
    rows = [{**batch, "labels": batch["input_ids"]} for batch in batches()]
    found = hl.suggest(model, rows, budget_rank=1, target=("q", "k", "v", "up"))
    assert len(found.ranks) == 12
    assert found.to_peft().task_type == "CAUSAL_LM"

    def last_token(output: object, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        return cross_entropy(type(output)(logits=output.logits[:, -1]), batch)

    other = hl.suggest(
        model, batches(), loss=last_token, budget_rank=1, target=("q", "k", "v", "up")
    )
    assert other.scores != found.scores


def test_batches_of_a_loader_and_more_than_are_read(checkpoints: dict[str, Path]) -> None:
    rows = [{name: t[i] for name, t in batch.items()} for batch in batches(8) for i in range(8)]
    loader = DataLoader(rows, batch_size=12)
    found = hl.suggest(classifier(checkpoints["bert"]), loader, hl.default_loss, budget_rank=2)
    assert found.examples == 64
    short = hl.proxies.GradNorm(num_batches=2, batch_size=4)
    assert hl.suggest(classifier(checkpoints["bert"]), loader, proxy=short).examples == 12


def test_what_it_prints_and_draws(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    found = hl.suggest(classifier(checkpoints["bert"]), batches(), budget_rank=2, enable_rate=0.5)
    head, columns, *layers = str(found).splitlines()
    assert head.startswith("gradnorm on 32 examples (")
    assert "3 of 6 sites on, 384 parameters (budget 384)" in head
    assert columns.split() == ["layer", "q", "v"]
    assert [line.split()[0] for line in layers] == ["0", "1", "2"]
    assert sum(line.split().count("4") for line in layers) == 3
    best = max(found.scores, key=found.scores.__getitem__)
    assert "4 █" in layers[best.layer]
    found.plot(tmp_path / "allocation.png")
    assert (tmp_path / "allocation.png").read_bytes().startswith(b"\x89PNG")
    equal = hl.suggest(classifier(checkpoints["bert"]), batches(), proxy="constant")
    assert "all scores are equal, so the choice is random" in str(equal)


def test_what_cannot_be(checkpoints: dict[str, Path]) -> None:
    model = classifier(checkpoints["bert"])
    with pytest.raises(ValueError, match="proxy='gradnrom': there is no such proxy; choose one of"):
        hl.suggest(model, batches(), proxy="gradnrom")
    with pytest.raises(ValueError, match="budget_rank / enable_rate must be whole"):
        hl.suggest(model, batches(), budget_rank=1, enable_rate=0.3)
    for wrong in ({"enable_rate": 2}, {"enable_rate": 0}, {"budget_rank": 0}, {"target": ()}):
        with pytest.raises(ValueError, match="must be at least 1, above 0"):
            hl.suggest(model, batches(), **wrong)
    with pytest.raises(ValueError, match="a batch is a tuple; it must be a dictionary"):
        hl.suggest(model, [(1, 2)])
    found = hl.suggest(model, batches(), budget_rank=2)
    for option in ("r", "use_rslora", "target_modules"):
        with pytest.raises(ValueError, match=f"{option}: follows from the allocation"):
            found.to_peft(**{option: 4})
    with pytest.raises(ValueError, match="no batches"):
        hl.suggest(model, iter([]))
    with pytest.raises(ValueError, match="batches without labels"):
        hl.suggest(model, [{k: v for k, v in b.items() if k != "labels"} for b in batches()])
    with pytest.raises(ModelError, match="have no 'gate'"):
        hl.suggest(model, batches(), target=("gate",))
    wrapped = get_peft_model(model, hl.suggest(model, batches()).to_peft())
    with pytest.raises(ModelError, match="before get_peft_model"):
        hl.suggest(wrapped, batches())


@pytest.mark.parametrize(
    ("kind", "settings", "labels"),
    [
        (BertForSequenceClassification, {"num_labels": 3}, torch.tensor([0, 2, 1])),
        (BertForSequenceClassification, {"num_labels": 1}, torch.tensor([1, 0, 3])),
        (
            BertForSequenceClassification,
            {"num_labels": 3, "problem_type": "multi_label_classification"},
            torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0]]),
        ),
        (BertForTokenClassification, {"num_labels": 3}, torch.tensor([[0, 1, -100, 2]] * 3)),
        (BertForMaskedLM, {}, torch.tensor([[-100, 5, -100, 7]] * 3)),
        (LlamaForCausalLM, {}, torch.tensor([[4, 5, 6, 7], [-100, -100, 5, 6], [4, 4, 4, 4]])),
    ],
)
def test_the_usual_loss_is_that_of_transformers(
    kind: type, settings: dict[str, object], labels: torch.Tensor
) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32, "vocab_size": 32}
    config = LlamaConfig if kind is LlamaForCausalLM else BertConfig
    model = kind(config(**sizes, num_attention_heads=4, **settings)).eval()
    ids = torch.tensor([[4, 5, 6, 7], [8, 9, 10, 11], [5, 5, 5, 5]])
    mean = not labels.is_floating_point() and settings.get("num_labels") != 1
    theirs = model(input_ids=ids, labels=labels if mean else labels.float()).loss
    total, count = usual_loss(model)(model(input_ids=ids), {"labels": labels})
    assert torch.isclose(total / count, theirs, rtol=1e-5)


# ---- the command


def test_the_command_reads_a_file(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "some.csv"
    file.write_text("text,stars\n" + "the cat sees,good\nno bird hears,bad\n" * 20)
    model = str(checkpoints["bert"])
    asked = ["--label", "stars", "--budget-rank", "2", "--output", str(tmp_path / "out")]
    command.main([model, str(file), *asked, "--plot", str(tmp_path / "a.png")])
    out = capsys.readouterr().out
    assert out.startswith("gradnorm on 40 examples")
    assert "peft.LoraConfig.from_pretrained(" in out
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert set(config["rank_pattern"].values()) == {8}
    assert config["base_model_name_or_path"] == model
    assert (tmp_path / "a.png").exists()
    command.main([str(checkpoints["llama"]), str(file), "--text", "text", "--label", "stars"])
    assert "LoraConfig(\n    r=32," in capsys.readouterr().out


def test_a_file_without_labels_is_for_a_language_model(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text('{"text": "the cat"}\n{"text": "a dog"}\n')
    columns, task = command.read(file, None, None, 16)
    assert columns == {"text": ["the cat", "a dog"]}
    assert task == hl.tasks.CausalLM(text="text", max_length=16)


@pytest.mark.parametrize(
    ("content", "text", "label", "said"),
    [
        ("a,b,label\nx,y,1\n", None, None, "column label has only one value"),
        ("a,b\nx,y\n", ["c"], None, "has no column c; choose from a, b"),
        ("a,b\nx,y\n", None, None, "a language model reads only one column"),
        ("a,label\n1,1\n2,0\n", None, None, "has 0 text columns"),
        ("", None, None, "cannot be read"),
        ("a,label\n", None, None, "has no rows"),
        ("a,label\nx,1\ny,\n", None, None, "row 1 has no label"),
        ("a,label\nx,good\ny,\n", None, None, "row 1 has no label"),
    ],
)
def test_what_is_wrong_with_a_file(
    content: str, text: list[str] | None, label: str | None, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "some.csv"
    file.write_text(content)
    with pytest.raises(DataError, match=said):
        command.read(file, text, label, 16)


def test_a_file_of_another_format_is_refused_with_those_that_are_read(tmp_path: Path) -> None:
    file = tmp_path / "some.xls"
    file.write_text("text\n")
    with pytest.raises(DataError, match=r"unsupported format; give a file of type \.parquet"):
        command.read(file, None, None, 16)


def test_fractions_are_a_regression(tmp_path: Path) -> None:
    file = tmp_path / "some.tsv"
    file.write_text("text\tlabel\nthe cat\t0.5\na dog\t2.25\n")
    _, task = command.read(file, None, None, 16)
    assert (task.num_labels, task.metrics) == (1, ("pearson",))
