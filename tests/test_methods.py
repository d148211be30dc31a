"""What methods other than this project's train, and how large they are."""

import json
from pathlib import Path

import pytest
import torch
from conftest import CONF, CommandLine, composed, edited, problems, stopped_at, tiny_config
from torch import nn

from heterolora.adapters import Adapters
from heterolora.adapters.bottleneck import Bottleneck
from heterolora.errors import ModelError
from heterolora.harness.config import checkpoints as located
from heterolora.harness.config import identity, prepare
from heterolora.harness.data import sources
from heterolora.harness.records.record import read_rows
from heterolora.harness.runs.build import build_adapters, build_budget

METHODS = sorted(file.stem for file in (CONF / "method").glob("*.yaml"))
OTHERS = [name for name in METHODS if name != "heterolora"]
SIZED = ["adalora", "dora", "eva", "houlsby", "pissa", "prefix"]


def applied(method: str, path: Path, pairs: Path, *changes: str) -> tuple[Adapters, int]:
    """What a method trains of a tiny model, and the budget."""
    options = (f"method={method}", *(one for one in changes if one.startswith("+")))
    values = (one for one in changes if one not in options)
    config = prepare(tiny_config(path, pairs, Path("somewhere"), *options, *values))
    task = config.task.build()
    loaded = located.load(config.model, task, config.seed)
    train = task.encode(
        sources.load(config.task, "train"), loaded.tokenizer, loaded.positions, torch.device("cpu")
    )
    return build_adapters(config, loaded, train), build_budget(config)


def test_every_method_is_here() -> None:
    assert {"heterolora", "adalora", "eva", "pissa", "dora", "ia3", "prefix"} <= set(METHODS)
    assert {"houlsby", "bitfit", "full", "head"} <= set(METHODS)


@pytest.mark.parametrize("method", OTHERS)
def test_it_trains_what_it_names_and_nothing_else(
    method: str, checkpoints: dict[str, Path], pairs: Path
) -> None:
    trained, _ = applied(method, checkpoints["opt-pre-norm"], pairs)
    assert trained.sites == ()
    named = trained.named_tensors()
    ids = {id(parameter) for parameter in named.values()}
    for name, parameter in trained.model.named_parameters():
        assert parameter.requires_grad == (id(parameter) in ids), name
    assert trained.count + trained.head_count == sum(p.numel() for p in named.values())
    assert trained.head_count == 2 * 16
    rows = torch.tensor([[0, 5, 6, 7, 8, 2], [0, 9, 10, 2, 1, 1]])
    output = trained.model(input_ids=rows, attention_mask=(rows != 1).long())
    nn.functional.cross_entropy(output.logits, torch.tensor([0, 1])).backward()
    assert all(parameter.grad is not None for parameter in named.values())


@pytest.mark.parametrize("rank", [2, 5])
@pytest.mark.parametrize("method", SIZED)
def test_its_size_comes_nearest_to_the_budget(
    method: str, rank: int, checkpoints: dict[str, Path], pairs: Path
) -> None:
    """One more or one less is no nearer."""
    path, budget_rank = checkpoints["opt-pre-norm"], f"rank_budget.lora_rank={rank}"
    trained, budget = applied(method, path, pairs, budget_rank)
    assert budget == 3 * 2 * (16 + 16) * rank
    step = {
        "adalora": 6 * (16 + 16 + 1),
        "dora": 6 * (16 + 16),
        "eva": 6 * (16 + 16),
        "houlsby": 6 * (2 * 16 + 1),
        "pissa": 6 * (16 + 16),
        "prefix": 3 * 2 * 16,
    }[method]
    count = trained.count
    if method == "adalora":  # before it prunes
        count = round(count / max(rank + 1, round(1.5 * rank))) * rank
    assert abs(count - budget) <= step / 2


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("method", [name for name in OTHERS if name not in ("prefix", "bitfit")])
def test_other_families(
    method: str, family: str, checkpoints: dict[str, Path], pairs: Path
) -> None:
    trained, _ = applied(method, checkpoints[family], pairs)
    assert trained.count >= 0
    assert trained.head_count > 0


def test_a_model_without_biases_has_no_bitfit(checkpoints: dict[str, Path], pairs: Path) -> None:
    with pytest.raises(ModelError, match="method=bitfit: llama models have no biases"):
        applied("bitfit", checkpoints["llama"], pairs)


def test_a_bottleneck_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    base, x = nn.Linear(4, 6), torch.randn(3, 5, 4)
    bottleneck = Bottleneck(base, 2, generator)
    assert torch.equal(bottleneck(x), base(x))
    for parameter in (*bottleneck.down.parameters(), *bottleneck.up.parameters()):
        parameter.data.normal_()
    y = x @ base.weight.T + base.bias
    hidden = (y @ bottleneck.down.weight.T + bottleneck.down.bias).clamp(min=0)
    expected = y + hidden @ bottleneck.up.weight.T + bottleneck.up.bias
    assert torch.allclose(bottleneck(x), expected, atol=1e-6)


# ---- runs


QUICK = ("adalora", "bitfit", "head", "houlsby")


@pytest.mark.parametrize(
    "method", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in OTHERS]
)
def test_a_run_is_recorded_and_resumed_to_the_bit(
    method: str, train: CommandLine, tmp_path: Path
) -> None:
    done = train(f"method={method}", f"output={tmp_path / 'whole'}")
    whole = done.record
    assert whole.name.startswith(f"{method}-")
    result = json.loads((whole / "run.json").read_text())
    assert result["parameters"]["sites"] == 0
    assert f"method      {method}" in done.out

    again = (f"method={method}", f"output={tmp_path / 'parts'}")
    with stopped_at(11):
        assert train(*again, "checkpoint.every_minutes=1e-9").code == 130
    done = train(*again)
    parts = done.record
    assert "resumed at step 11" in done.out
    resumed = json.loads((parts / "run.json").read_text())
    for key in ("best", "last", "parameters", "identity", "steps"):
        assert resumed[key] == result[key], key
    lines = "metrics.jsonl"
    assert read_rows(parts / lines) == read_rows(whole / lines)


def test_adalora_ends_at_its_budget(train: CommandLine) -> None:
    run = train("method=adalora", "training.epochs=3").record
    counts = json.loads((run / "run.json").read_text())["parameters"]
    assert counts["enabled"] == 6 * 2 * (16 + 16 + 1)
    assert counts["budget"] == 6 * 2 * (16 + 16)


# ---- the configuration


def test_the_default_method_leaves_identities_as_they_were() -> None:
    """That of the README, from before there were methods."""
    assert identity(prepare(composed("device=cpu"))) == "c2434134"


def test_another_method_searches_nothing(checkpoints: dict[str, Path]) -> None:
    path = f"model.path={checkpoints['bert']}"
    config = prepare(composed("method=dora", "strategy=dynamic", path, "device=cpu"))
    assert (config.strategy.name, config.proxy, config.selection) == ("homogeneous", None, None)
    other = prepare(composed("method=dora", "strategy=static", "proxy=snip", path, "device=cpu"))
    assert identity(other) == identity(config)


def test_what_is_wrong_is_one_line(checkpoints: dict[str, Path], pairs: Path) -> None:
    cfg = composed("method=dora", f"model.path={checkpoints['opt-post-norm']}", "device=cpu")
    spaced = composed("method=dora", "search_space=lora_shortcuts", "rank_budget=l2_s11")
    assert any("method=dora has no adapters on shortcuts" in line for line in problems(spaced))
    assert problems(edited(cfg, "method.kind=dorra")) == (
        "method.kind=dorra: there is no such method; choose one of adalora, bitfit, eva, full, "
        "head, heterolora, houlsby, peft",
    )
    path = checkpoints["opt-post-norm"]
    with pytest.raises(ModelError, match=r"_target_=os\.system: must be a configuration of PEFT"):
        applied("dora", path, pairs, "method.config._target_=os.system")
    with pytest.raises(ModelError, match=r"method\.config: PEFT rejects it"):
        applied("dora", path, pairs, "+method.config.nothing=1")
    with pytest.raises(ModelError, match=r"method\.rho=1000: .* the 16 inputs .*; use at most \d"):
        applied("eva", path, pairs, "method.rho=1000")


@pytest.mark.slow
def test_methods_of_a_sweep_in_one_pass_are_as_alone(
    command_line: CommandLine, tiny: list[str], tmp_path: Path
) -> None:
    sweep = ["-m", "method=head,bitfit", "seed=0,13"]
    alone = command_line(*sweep, *tiny, f"output={tmp_path / 'alone'}")
    packed = command_line(*sweep, *tiny, f"output={tmp_path / 'packed'}", "hydra/launcher=packed")
    assert (alone.code, packed.code) == (0, 0), packed.err
    results = [
        {
            file.parent.name: json.loads(file.read_text())["best"]
            for file in folder.rglob("run.json")
        }
        for folder in (tmp_path / "alone", tmp_path / "packed")
    ]
    assert len(results[0]) == 4
    assert results[0] == results[1]


def test_what_is_trained_can_be_imported_beside_the_methods() -> None:
    """As a method in another package does."""
    from heterolora import methods
    from heterolora.adapters.full_parameters import Trained

    assert methods.Trained is Trained
    with pytest.raises(AttributeError, match="Untrained"):
        methods.Untrained  # noqa: B018
