"""Each sign of failure is named where it is, and not where it is not."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from records import write_run

from heterolora.harness.records.load import load
from heterolora.harness.reporting.arms import arms
from heterolora.harness.reporting.frame import frame
from heterolora.harness.reporting.tables.diagnostics import diagnostics, jumping

SITES = [f"layers.{layer}.{role}" for layer in range(4) for role in "qv"]
RANKED = {site: float(index + 1) for index, site in enumerate(SITES)}
FLAT = dict.fromkeys(SITES, 0.0)
SWAPPED = [SITES[:4], SITES[4:]] * 2
ALL_ONCE = [*[SITES[:4]] * 6, SITES[4:]]
CHANGING = [SITES[:4], SITES[:5], SITES[1:5], SITES[2:]]


def written(
    output: Path,
    *overrides: str,
    enabled: Sequence[Sequence[str]] = (),
    scores: dict[str, float] = RANKED,
    best: float = 0.8,
    parameters: int = 1000,
) -> Path:
    counts = {"budget": 1, "enabled": parameters, "sites": 8, "sites_enabled": 4, "head": 1}
    return write_run(
        output,
        *overrides,
        accuracies=[0.5, best],
        scores=[scores] * len(enabled),
        enabled=enabled,
        parameters=counts,
    )


def with_losses(directory: Path, seed: int, after: Sequence[int], rise: float) -> None:
    """Noise around a falling loss, a logged step every 2, and a rise at the steps `after`."""
    noise = np.random.default_rng(seed).normal(0, 0.01, 100)
    rows = [
        {"event": "step", "step": step, "epoch": 1, "loss": 1 - step / 500 + noise[step // 2 - 1]}
        for step in range(2, 201, 2)
    ]
    for row in rows:
        row["loss"] += rise * (row["step"] in after)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def jumps(output: Path) -> list[str]:
    (arm,) = arms(frame(load(output)[0]))
    return list(jumping(arm))


def found(output: Path) -> list[str]:
    return diagnostics(frame(load(output)[0]))


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    written(tmp_path, enabled=ALL_ONCE)
    written(tmp_path, "strategy=homogeneous")
    written(tmp_path, "strategy=static", enabled=[SITES[:4]])
    assert found(tmp_path) == []
    assert diagnostics(frame([])) == []


def test_churn_is_named(tmp_path: Path) -> None:
    for seed in (0, 13):
        written(tmp_path, f"seed={seed}", enabled=SWAPPED)
    (said,) = found(tmp_path)
    assert said == (
        "dynamic gradnorm: a search replaces 100% of the sites that are on (mean of 6; random "
        "allocation: 50%)"
    )


def test_the_control_may_churn_and_tie(tmp_path: Path) -> None:
    written(tmp_path, "proxy=constant", enabled=SWAPPED, scores=FLAT)
    assert found(tmp_path) == []


def test_sites_never_on_are_named_by_role_and_layer(tmp_path: Path) -> None:
    on = ["layers.0.v", "layers.1.v", "layers.2.v"]
    for seed, third in ((0, "layers.3.v"), (13, "layers.2.q")):
        written(tmp_path, f"seed={seed}", enabled=[[*on, third]] * 3)
    (said,) = found(tmp_path)
    assert said == ("dynamic gradnorm: 3 of 8 sites (38%) are never on (2 seeds): q 0-1, 3")


def test_a_role_never_on_is_named_whole(tmp_path: Path) -> None:
    written(tmp_path, enabled=[[site for site in SITES if site.endswith("v")]] * 2)
    (said,) = found(tmp_path)
    assert said.endswith("4 of 8 sites (50%) are never on (1 seed): q (all)")


def test_loss_jumps_after_searches_are_named(tmp_path: Path) -> None:
    # The searches of `write_run` are at steps 0, 50, 100 and 150 of 200.
    directory = written(tmp_path, enabled=CHANGING)
    with_losses(directory, 0, after=[52, 102, 152], rise=0.3)
    (said,) = jumps(tmp_path)
    assert "jumps after 3 of 3 searches that changed the allocation, and at 0 of 9" in said


@pytest.mark.parametrize(
    ("after", "enabled"),
    [
        ([], CHANGING),
        ([30, 76, 120], CHANGING),
        ([52, 102, 152], [SITES] * 4),
    ],
    ids=["no_jumps", "jumps_elsewhere", "searches_that_change_nothing"],
)
def test_other_losses_are_not(
    after: Sequence[int], enabled: Sequence[Sequence[str]], tmp_path: Path
) -> None:
    for seed in (0, 1, 2):
        directory = written(tmp_path, f"seed={seed}", enabled=enabled)
        with_losses(directory, seed, after, rise=0.3)
    assert jumps(tmp_path) == []


def test_a_loss_that_a_search_falls_into_is_not_compared(tmp_path: Path) -> None:
    """Steps 49 to 52 hold the search at 50: it is 48 that is compared with 56."""
    directory = written(tmp_path, enabled=CHANGING)
    with_losses(directory, 0, after=[], rise=0)
    file = directory / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [row for row in rows if row["step"] % 4 == 0]
    for row in kept:
        row["loss"] += 0.3 * (row["step"] in (52, 152))  # the mixed ones alone
    file.write_text("".join(json.dumps(row) + "\n" for row in kept))
    assert jumps(tmp_path) == []


def test_more_parameters_without_more_accuracy_is_named(tmp_path: Path) -> None:
    for seed, small, large in ((0, 0.8, 0.7), (13, 0.8, 0.85)):
        written(tmp_path, f"seed={seed}", "strategy=homogeneous", best=small)
        arguments = ("strategy=homogeneous", "rank_budget=r8")
        written(tmp_path, f"seed={seed}", *arguments, best=large, parameters=4000)
    # A seed that only one of the two has says nothing of the other.
    written(tmp_path, "seed=42", "strategy=homogeneous", best=0.1)
    (said,) = found(tmp_path)
    assert said == (
        "homogeneous, r8: 4,000 adapter parameters are no better than the 1,000 of homogeneous, "
        "r2: accuracy 77.5 and 80.0 (mean best of 2 seeds)"
    )


@pytest.mark.parametrize(
    ("overrides", "best", "parameters"),
    [
        (["rank_budget=r8"], 0.81, 4000),
        (["rank_budget=r8"], 0.7, 1200),
        (["rank_budget=r8", "optimizer.learning_rate=0.5"], 0.7, 4000),
    ],
    ids=["better", "hardly_larger", "another_learning_rate"],
)
def test_other_budgets_are_not(
    overrides: Sequence[str], best: float, parameters: int, tmp_path: Path
) -> None:
    written(tmp_path, "strategy=homogeneous", best=0.8)
    written(tmp_path, "strategy=homogeneous", *overrides, best=best, parameters=parameters)
    assert found(tmp_path) == []
