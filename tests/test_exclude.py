"""`search_space.exclude`: sites that have no adapter from the start."""

from pathlib import Path

import pytest
import torch
from conftest import CommandLine, composed, edited, problems
from omegaconf import DictConfig
from transformers import AutoModelForSequenceClassification, PreTrainedModel

import heterolora
from heterolora.adapters import Adapters, Space
from heterolora.architectures import wire
from heterolora.architectures.family import family_of, head_of
from heterolora.harness.config import identity, prepare
from heterolora.harness.config.identity import shaping_settings
from heterolora.harness.records.load import load
from heterolora.harness.runs.build import build_budget
from heterolora.sites import Site


@pytest.fixture(scope="module")
def embedded() -> DictConfig:
    return composed("device=cpu", "tracking=local", "search_space=lora_shortcuts")


def exclude(cfg: DictConfig, *names: str) -> DictConfig:
    return edited(cfg, f"search_space.exclude=[{','.join(names)}]")


def tiny_model(checkpoints: dict[str, Path]) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        checkpoints["opt-post-norm"]
    )
    return model


def wired(model: PreTrainedModel, *names: str) -> Adapters:
    space = Space(lora={"q": 2, "v": 2}, shortcuts={"res1": 2, "cut": 2}, exclude=names)
    return wire(model, family_of(model), space, head_of(model), 0)


def test_a_site_that_is_left_out_has_no_adapter(checkpoints: dict[str, Path]) -> None:
    all_sites = wired(tiny_model(checkpoints))
    some = wired(tiny_model(checkpoints), "layers.1.q", "layers.2.cut")
    gone = {Site(1, "q"), Site(2, "cut")}
    assert set(some.sites) == set(all_sites.sites) - gone
    assert not any("layers.1.q" in name for name in some.named_tensors())
    for site, adapter in some.items():  # the others are drawn as ever
        assert torch.equal(adapter.A, all_sites[site].A)


def test_it_is_saved_and_loaded(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    some = wired(tiny_model(checkpoints), "layers.1.q")
    heterolora.save(some, tmp_path)
    again = heterolora.load(tiny_model(checkpoints), tmp_path)
    assert again.sites == some.sites
    assert Site(1, "q") not in again


def test_the_budget_is_of_the_sites_that_are_left(embedded: DictConfig) -> None:
    """Each adapter of the embedded model costs 96 + 96 parameters a rank, at rank 2."""
    every = build_budget(prepare(embedded))
    assert build_budget(prepare(exclude(embedded, "layers.3.q", "layers.0.v"))) == every - 2 * 384


def test_nothing_left_out_is_the_run_from_before(embedded: DictConfig) -> None:
    config = prepare(embedded)
    assert "exclude" not in shaping_settings(config.resolved())["search_space"]
    one, other = (
        identity(prepare(exclude(embedded, *names)))
        for names in (("layers.3.q", "layers.0.v"), ("layers.0.v", "layers.3.q"))
    )
    assert one == other != identity(config)


def test_what_is_no_site(embedded: DictConfig) -> None:
    for name, remedy in {
        "layers.8.q": "did you mean layers.",
        "layers.3.k": "did you mean layers.3.",
        "layers.0.cut": "did you mean layers.",
    }.items():
        (problem,) = problems(exclude(embedded, name))
        assert problem.startswith(f"search_space.exclude=[{name}]: ")
        assert f"has no site '{name}'; {remedy}" in problem


def test_something_must_be_left(embedded: DictConfig) -> None:
    lora = edited(embedded, "search_space.shortcuts=[]", "search_space.projections=[q]")
    (problem,) = problems(exclude(lora, *(f"layers.{layer}.q" for layer in range(8))))
    assert "excludes all 8 sites; name fewer" in problem
    (problem,) = problems(exclude(lora, "layers.1.q", "layers.1.q"))
    assert "must name each site once; for example search_space.exclude=[layers.3.q]" in problem


def test_other_methods_go_by_roles() -> None:
    cfg = composed("device=cpu", "tracking=local", "method=dora")
    (problem,) = problems(exclude(cfg, "layers.1.q"))
    assert problem.startswith("search_space.exclude=[layers.1.q]: method=dora adapts roles")


def test_a_run_without_a_site(train: CommandLine, tmp_path: Path) -> None:
    left_out = "search_space.exclude=[layers.1.q]"
    assert train(left_out, "training.epochs=1", "strategy=static").code == 0
    (record,), _ = load(tmp_path / "outputs")
    assert record.searches[0].ranks.keys() == {
        f"layers.{layer}.{role}" for layer in range(3) for role in "qv"
    } - {"layers.1.q"}
    assert record.result.parameters is not None
    assert record.result.parameters.budget == 5 * 2 * 32
