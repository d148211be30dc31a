"""The loop: what it records, what it repeats bit for bit, what it leaves alone, how it fails."""

import functools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import CONF, composed, edited, tiny_run, write_parquet
from omegaconf import DictConfig
from rich.console import Console
from safetensors.torch import load_file

import heterolora
from heterolora.adapters import Adapters
from heterolora.errors import TrainingError
from heterolora.harness.config import Config, checkpoints, identity
from heterolora.harness.data import sources
from heterolora.harness.loggers.progress import Display, Screen
from heterolora.harness.records.record import read_rows, read_run
from heterolora.harness.runs import execute as experiment
from heterolora.harness.runs.build import build_adapters
from heterolora.harness.runs.outcome import directory_of
from heterolora.proxies import GradNorm


def configuration(*overrides: str) -> DictConfig:
    """As `composed`: only the choices of files are composed, and values are put into that."""
    keys = {override: override.partition("=")[0] for override in overrides}
    chosen = [o for o, key in keys.items() if key.startswith("+") or (CONF / key).is_dir()]
    return edited(composed(*chosen), *(o for o in overrides if o not in chosen))


def executed(*overrides: str) -> Path:
    """Run in this process; the run directory."""
    cfg = configuration(*overrides)
    config = experiment.prepare(cfg)
    directory = directory_of(config, identity(config))
    console = Console()
    experiment.run(cfg, Screen(Display(console))).show(console)
    return directory


Finished = Callable[..., Path]


def settled(tiny: list[str], *more: str) -> list[str]:
    """Overrides for a run of the tiny pairs, without settings that its proxy does not have."""
    fixed = [o for o in tiny if "proxy=constant" not in more or not o.startswith("proxy.")]
    return [*fixed, "training.log_every=3", *more]


@pytest.fixture(scope="module")
def finished(checkpoints, pairs, tmp_path_factory) -> Finished:
    """The folder of a run with some overrides, which is trained once for all tests that read it."""
    output = tmp_path_factory.mktemp("finished")
    tiny = tiny_run(checkpoints["opt-post-norm"], pairs, output)
    return functools.cache(lambda *more: executed(*settled(tiny, *more)))


@pytest.fixture
def copied(finished: Finished, tiny: list[str], tmp_path: Path) -> Path:
    """The finished run without further overrides, as if `settled(tiny)` had been trained."""
    config = experiment.prepare(configuration(*settled(tiny)))
    directory = directory_of(config, identity(config))
    shutil.copytree(finished(), directory)
    return directory


def numbers(directory: Path) -> tuple[str, list[dict[str, object]]]:
    """Everything a repetition must give again: metrics to the letter, searches but for seconds."""
    searches = read_rows(directory / "allocations.jsonl")
    for row in searches:
        assert row.pop("seconds") > 0
    return (directory / "metrics.jsonl").read_text(), searches


@pytest.mark.parametrize("proxy", ["gradnorm", "constant"])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(tiny, finished, proxy) -> None:
    """Whatever the state of the global generator is, which stays as it was."""
    directory = finished(f"proxy={proxy}", "seed=0")
    first = numbers(directory)
    weights = load_file(directory / "checkpoint" / "last.safetensors")
    torch.manual_seed(2)
    state = torch.get_rng_state()
    repeated = executed(*settled(tiny, f"proxy={proxy}", "seed=0"))
    assert torch.equal(torch.get_rng_state(), state)
    assert repeated.name == directory.name
    assert numbers(repeated) == first
    again = load_file(repeated / "checkpoint" / "last.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    other = finished(f"proxy={proxy}", "seed=13")
    assert other != directory
    assert numbers(other)[0] != first[0]
    assert numbers(other)[1] != first[1]


def test_what_is_recorded(finished) -> None:
    directory = finished()
    run = read_run(directory)
    assert run is not None
    assert run["status"] == "finished"
    assert run["error"] is None
    assert run["steps"] == 16  # 2 epochs of ceil(60 / 8)
    assert run["searches_per_epoch"] == 4  # 5 are asked for: one every second of 8 steps
    assert run["unit"] == "%"
    rows = read_rows(directory / "metrics.jsonl")
    steps = [row["step"] for row in rows if row["event"] == "step"]
    assert steps == [3, 6, 8, 9, 12, 15, 16]
    epochs = [row for row in rows if row["event"] == "epoch"]
    assert [row["epoch"] for row in epochs] == [1, 2]
    searches = read_rows(directory / "allocations.jsonl")
    assert [row["step"] for row in searches] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert [row["epoch"] for row in searches] == [1] * 4 + [2] * 4
    best = max(epochs, key=lambda row: row["accuracy"])
    assert run["best"]["accuracy"] == best["accuracy"]
    assert run["last"] == {key: value for key, value in epochs[1].items() if key != "event"}
    # 6 sites at rank 8 cost 256 each; 384 is as near to 1 of them as to 2, and ties go under.
    assert run["parameters"] == {
        "budget": 6 * 2 * 32,
        "enabled": 256,
        "sites": 6,
        "sites_enabled": 1,
        "head": 2 * 8,
    }
    names = {file.name for file in directory.iterdir()}
    assert names - {"code.diff"} == {
        "allocations.jsonl",
        "checkpoint",
        "config.yaml",
        "metrics.jsonl",
        "provenance.json",
        "run.json",
    }
    assert {file.name for file in (directory / "checkpoint").iterdir()} == {
        "best.safetensors",
        "last.safetensors",
    }


def test_a_run_trains_on_as_many_examples_as_are_asked_for(tiny) -> None:
    directory = executed(*tiny, "training.limit_examples=20", "training.epochs=1")
    run = read_run(directory)
    assert run is not None
    assert run["steps"] == math.ceil(20 / configuration(*tiny).training.batch_size)
    rows = json.loads((directory / "provenance.json").read_text())["data"]["train"]["rows"]
    assert rows == 20


def test_pruning_ends_at_the_budget(tiny) -> None:
    directory = executed(*tiny, "strategy=pruning", "strategy.enable_rate=0.5")
    run, searches = read_run(directory), read_rows(directory / "allocations.jsonl")
    assert run is not None
    counts = run["parameters"]
    spent = [row["parameters"] for row in searches]
    assert spent == sorted(spent, reverse=True)
    assert spent[0] > counts["budget"]
    assert spent[-1] == counts["budget"] == counts["enabled"]
    assert run["searches_per_epoch"] is None


def test_a_warm_up_trains_all_sites_at_the_budget_before_its_search(tiny) -> None:
    """Which is homogeneous LoRA until then, but for rows of A that are not on."""
    short = ["training.epochs=1", "training.log_every=1", "search_space.scaling=rslora"]
    warm = ["strategy=warmup", "strategy.warmup=0.5", "proxy=gradnorm"]
    directory = executed(*tiny, *short, *warm)
    (search,) = read_rows(directory / "allocations.jsonl")
    losses = [r["loss"] for r in read_rows(directory / "metrics.jsonl") if r["event"] == "step"]
    assert search["step"] == math.ceil(len(losses) / 2)
    assert search["weights"] == "current"
    config = experiment.prepare(configuration(*tiny, *short, *warm))
    adapters = built(config)
    assert set(adapters.ranks.values()) == {config.rank_budget.lora_rank}
    assert set(adapters.capacities.values()) == {4 * config.rank_budget.lora_rank}


def test_a_quarter_of_a_rank_for_each_site(tiny) -> None:
    """What is on has rank 1, and the factor of rank 1."""
    overrides = [*tiny, "strategy=static", "rank_budget=r1_2"]
    directory = executed(*overrides, "training.epochs=1")
    (search,) = read_rows(directory / "allocations.jsonl")
    assert sorted(search["ranks"].values()) == [0, 0, 0, 1, 1, 1]
    run = read_run(directory)
    assert run is not None
    assert run["parameters"]["enabled"] == run["parameters"]["budget"]
    adapters = built(experiment.prepare(configuration(*overrides)))
    assert {float(adapter.scaling) for adapter in adapters.values()} == {16.0}


def built(config: Config) -> Adapters:
    """The adapters of a run before training."""
    task = config.task.build()
    loaded = checkpoints.load(config.model, task, config.seed)
    train = sources.load(config.task, "train")
    encoded = task.encode(train, loaded.tokenizer, loaded.positions, torch.device("cpu"))
    return build_adapters(config, loaded, encoded)


def test_halves_select_on_one_and_report_the_other(tiny, finished) -> None:
    full = read_rows(finished() / "metrics.jsonl")
    directory = executed(*tiny, "evaluation.split=halves", "training.epochs=3")
    epochs = [row for row in read_rows(directory / "metrics.jsonl") if row["event"] == "epoch"]
    run = read_run(directory)
    assert run is not None
    assert run["best"]["accuracy"] == max(row["accuracy"] for row in epochs)
    assert run["best"]["epoch"] == max(epochs, key=lambda row: row["accuracy"])["epoch"]
    (before,) = (row for row in full if row["event"] == "epoch" and row["epoch"] == 1)
    shares = ("", "report_")  # two halves of 20 examples each
    for name in ("accuracy", "loss"):
        keys = [f"{prefix}{name}" for prefix in shares]
        keys = ["validation_loss" if key == "loss" else key for key in keys]
        whole = before["validation_loss" if name == "loss" else name]
        assert sum(epochs[0][key] for key in keys) / 2 == pytest.approx(whole, rel=1e-5)


HOMOGENEOUS = ("strategy=homogeneous", "optimizer.learning_rate=0.1")


def test_importance_is_what_leaving_a_site_out_costs(tiny, finished) -> None:
    overrides = settled(tiny, *HOMOGENEOUS)
    plain = finished(*HOMOGENEOUS)
    asked = executed(*overrides, "+proxy@importance.first=constant", "+proxy@importance.g=gradnorm")
    assert plain != asked
    assert numbers(plain)[0] == numbers(asked)[0]
    rows = read_rows(asked / "importance.jsonl")
    assert [row["site"] for row in rows] == [
        f"layers.{i}.{role}" for i in range(3) for role in "qv"
    ]
    assert {row["scores"]["first"] for row in rows} == {1.0}
    assert all(row["scores"]["g"] > 0 for row in rows)
    cfg = configuration(*overrides)
    config = experiment.prepare(cfg)
    task = config.task.build()
    loaded = checkpoints.load(config.model, task, 0)
    adapters = heterolora.load(loaded.model, plain / "checkpoint" / "last.safetensors")
    examples = sources.load(config.task, "validation")
    held_out = task.encode(examples, loaded.tokenizer, loaded.positions, torch.device("cpu"))
    (batch,) = held_out.in_order(len(held_out))
    labels = batch.pop("labels")
    adapters.model.eval()

    def loss() -> float:
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(adapters.model(**batch).logits, labels))

    whole = loss()
    for site, row in zip(adapters.sites, rows, strict=True):
        kept = adapters[site].B.detach().clone()
        adapters[site].B.data.zero_()
        assert row["loss_difference"] == pytest.approx(loss() - whole, abs=2e-6)
        adapters[site].B.data.copy_(kept)
    assert any(abs(row["loss_difference"]) > 1e-4 for row in rows)


def test_static_searches_once_and_trains_only_what_is_on(tiny) -> None:
    directory = executed(*tiny, "strategy=static", "training.epochs=1")
    (search,) = read_rows(directory / "allocations.jsonl")
    assert search["step"] == 0
    weights = load_file(directory / "checkpoint" / "last.safetensors")
    for site, rank in search["ranks"].items():
        assert weights[f"{site}.B"].any() == (rank > 0)


def test_homogeneous_trains_everything_at_the_budgets_rank(finished) -> None:
    directory = finished(*HOMOGENEOUS)
    assert directory.name.startswith("homogeneous-")
    assert read_rows(directory / "allocations.jsonl") == []
    weights = load_file(directory / "checkpoint" / "last.safetensors")
    adapters = {name: w for name, w in weights.items() if name.endswith((".A", ".B"))}
    assert len(adapters) == 2 * 6
    assert all(w.any() for w in adapters.values())
    assert {w.shape[0] for name, w in adapters.items() if name.endswith(".A")} == {2}
    run = read_run(directory)
    assert run is not None
    assert run["parameters"]["enabled"] == run["parameters"]["budget"]


def test_it_learns(tiny, checkpoints, tmp_path) -> None:
    texts = ["the small cat", "a red dog"] * 20
    split = {"sentence1": ["big bird"] * 40, "sentence2": texts, "label": [0, 1] * 20}
    fewer = {name: values[:38] for name, values in split.items()}
    write_parquet(tmp_path, train=split, validation=fewer)
    directory = executed(
        *tiny,
        f"task.path={tmp_path}",
        "strategy=homogeneous",
        f"model.path={checkpoints['bert']}",
        "training.epochs=8",
        "optimizer.learning_rate=0.03",
        "rank_budget=r8",
    )
    epochs = [row for row in read_rows(directory / "metrics.jsonl") if row["event"] == "epoch"]
    assert epochs[0]["train_loss"] > 0.5
    assert epochs[-1]["train_loss"] < 0.3
    assert epochs[-1]["accuracy"] == 1


def test_a_finished_run_is_not_run_again_unless_asked(copied, tiny) -> None:
    def written() -> int:
        return (copied / "metrics.jsonl").stat().st_mtime_ns

    before = written()
    assert executed(*settled(tiny)) == copied
    assert written() == before
    assert executed(*settled(tiny, "rerun=true")) == copied
    assert written() > before


def test_an_unfinished_run_is_run(copied, tiny) -> None:
    metrics = (copied / "metrics.jsonl").read_text()
    (copied / "run.json").write_text(json.dumps({"status": "interrupted"}))
    executed(*settled(tiny))
    run = read_run(copied)
    assert run is not None
    assert run["status"] == "finished"
    assert (copied / "metrics.jsonl").read_text() == metrics


def test_a_loss_that_is_not_finite_fails_the_run_and_names_the_step(tiny) -> None:
    overrides = [*tiny, "optimizer.learning_rate=1e30", "training.log_every=4"]
    config = experiment.prepare(configuration(*overrides))
    directory = directory_of(config, identity(config))
    with pytest.raises(TrainingError, match=r"loss is nan at step (\d+) \(epoch 1\)") as failure:
        experiment.run(configuration(*overrides), Screen(Display(Console())))
    run = read_run(directory)
    assert run is not None
    assert run["status"] == "failed"
    assert run["error"] == str(failure.value)
    assert run["best"] is None
    for row in read_rows(directory / "metrics.jsonl"):
        assert row["step"] < 8


def test_an_interrupt_is_recorded(tiny, monkeypatch) -> None:
    """It comes while a proxy scores, at the second search of the second epoch."""
    searches = []
    scores = GradNorm.scores

    def interrupted(*args):
        searches.append(args)
        if len(searches) == 6:
            raise KeyboardInterrupt
        return scores(*args)

    monkeypatch.setattr(GradNorm, "scores", interrupted)
    config = experiment.prepare(configuration(*tiny))
    directory = directory_of(config, identity(config))
    with pytest.raises(KeyboardInterrupt):
        experiment.run(configuration(*tiny), Screen(Display(Console())))
    run = read_run(directory)
    assert run is not None
    assert run["status"] == "interrupted"
    assert run["steps"] == 10
    assert run["best"]["epoch"] == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precisions_run_and_keep_what_is_trained_in_float32(finished, precision) -> None:
    directory = finished() if precision == "fp32" else finished("precision=bf16")
    weights = load_file(directory / "checkpoint" / "last.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("family", "pool"),
    [("opt-pre-norm", "combined"), ("bert", "separated"), ("qwen3", "separated")],
)
def test_every_family_trains_with_shortcuts(tiny, family, pool, checkpoints, capfd) -> None:
    directory = executed(
        *tiny,
        f"model.path={checkpoints[family]}",
        "search_space=lora_shortcuts",
        f"search_space.pool={pool}",
        "search_space.renormalize=enabled",
        "rank_budget=l2_s11",
        "strategy.searches_per_epoch=2",
        "training.epochs=1",
    )
    searches = read_rows(directory / "allocations.jsonl")
    assert len(searches) == 2
    ranks = [search["ranks"] for search in searches]
    lora = {site: rank for row in ranks for site, rank in row.items() if site[-1] in "qv"}
    assert len(lora) == 6
    assert len(ranks[0]) == 6 + 11
    assert {rank for row in ranks for rank in row.values()} <= {0, 8, 44}
    run = read_run(directory)
    assert run is not None
    values = 2 * 16 + 16 + (8 if family == "qwen3" else 16)
    assert run["parameters"]["budget"] == 3 * 2 * values + 11 * 11 * 32
    table = capfd.readouterr().out.splitlines()[-5:]
    assert table[0].split() == ["layer", "q", "v", "res1", "res2", "in", "cut"]
    weights = load_file(directory / "checkpoint" / "last.safetensors")
    assert weights["layers.2.res1.A"].shape == (44, 16)
    assert not any(".base." in name or "blocks" in name for name in weights)
    if pool == "separated":  # 1.5 of 6 at most 2, 2.75 of 11 is 3
        for row in ranks:
            on = [site for site, rank in row.items() if rank]
            assert sum(site in lora for site in on) in (1, 2)
            assert sum(site not in lora for site in on) == 3


@pytest.mark.parametrize("family", ["opt-pre-norm", "bert", "roberta", "llama"])
def test_every_family_trains(tiny, family, checkpoints) -> None:
    directory = executed(
        *tiny,
        f"model.path={checkpoints[family]}",
        "search_space.projections=[q,k,v,o,up,down]",
        "strategy=static",
        "training.epochs=1",
    )
    (search,) = read_rows(directory / "allocations.jsonl")
    assert len(search["scores"]) == 18
    # Unequal sites: up and down cost 8 * 48, q k v o 8 * 32, k and v 8 * 24 if heads are grouped.
    grouped = family == "llama"
    unit = {"q": 32, "k": 24 if grouped else 32, "v": 24 if grouped else 32, "o": 32}
    unit |= {"up": 48, "down": 48}
    budget = 3 * 2 * sum(unit.values())
    # No prefix of the order is nearer.
    order = sorted(search["scores"], key=lambda site: -search["scores"][site])
    costs = [8 * unit[site.rpartition(".")[2]] for site in order]
    sums = [sum(costs[:count]) for count in range(19)]
    assert search["parameters"] in sums
    assert abs(search["parameters"] - budget) == min(abs(total - budget) for total in sums)
