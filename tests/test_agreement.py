"""Arms, and the agreement of their searches, against numbers worked out by hand."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import pytest
from records import write_run

from heterolora.harness.records.load import load
from heterolora.harness.records.read import Run
from heterolora.harness.reporting.arms import Arm, arms
from heterolora.harness.reporting.frame import frame
from heterolora.harness.reporting.sites import agreement

SITES = [f"layers.{layer}.{role}" for layer in range(2) for role in "qv"]
FLAT = dict.fromkeys(SITES, 1.0)


def scores(*values: float) -> dict[str, float]:
    return dict(zip(SITES, values, strict=True))


def written(
    output: Path,
    *overrides: str,
    scores: Sequence[Mapping[str, float]] = (FLAT,),
    enabled: Sequence[Sequence[int]] = ((0,),),
) -> None:
    on = [[SITES[site] for site in sites] for sites in enabled]
    write_run(output, *overrides, accuracies=[0.5], scores=scores, enabled=on)


def runs(output: Path) -> list[Run]:
    found, problems = load(output)
    assert problems == []
    return found


def arms_of(output: Path) -> list[Arm]:
    return arms(frame(runs(output)))


def only(output: Path) -> Run:
    (run,) = runs(output)
    return run


def test_an_arm_is_a_configuration_over_seeds(tmp_path: Path) -> None:
    for seed in (13, 0):
        written(tmp_path, f"seed={seed}", f"training.log_every={seed + 1}")
    written(tmp_path, "name=again", "seed=0")
    written(tmp_path, "rank_budget=r8", "seed=0")
    write_run(tmp_path, "seed=42", accuracies=[0.5], status="failed")
    small, large = arms_of(tmp_path)
    assert (small.label, large.label) == ("dynamic gradnorm, r2", "dynamic gradnorm, r8")
    assert [run.seed for run in small.runs] == [0, 13]
    assert [run.seed for run in large.searched] == [0]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["", "strategy=homogeneous"], ["dynamic gradnorm", "homogeneous"]),
        (["proxy=snip", "proxy=constant"], ["dynamic constant", "dynamic snip"]),
        (
            ["proxy=snip", "proxy=snip proxy.weights=current", "proxy=gradnorm"],
            ["dynamic gradnorm", "dynamic snip, current weights", "dynamic snip, probe weights"],
        ),
        (
            ["search_space.pool=separated", "strategy.searches_per_epoch=2"],
            ["dynamic gradnorm, combined, 2/epoch", "dynamic gradnorm, separated, 5/epoch"],
        ),
        (["rank_budget=l2_s47", ""], ["dynamic gradnorm, r2", "dynamic gradnorm, r2/47"]),
        (
            ["optimizer.learning_rate=2e-3", "optimizer.learning_rate=1e-3"],
            ["dynamic gradnorm, lr 0.001", "dynamic gradnorm, lr 0.002"],
        ),
        (
            ["search_space=lora_shortcuts", "strategy.enable_rate=0.5"],
            [
                "dynamic gradnorm, res1+res2+in+cut, 25% on",
                "dynamic gradnorm, no shortcuts, 50% on",
            ],
        ),
        (
            ["training.batch_size=8", "training.batch_size=16"],
            ["dynamic gradnorm, batch size 16", "dynamic gradnorm, batch size 8"],
        ),
    ],
)
def test_a_label_says_where_arms_differ(
    overrides: Sequence[str], expected: Sequence[str], tmp_path: Path
) -> None:
    for arm in overrides:
        written(tmp_path, *arm.split())
    assert {arm.label for arm in arms_of(tmp_path)} == set(expected)


def test_other_data_of_the_same_name_is_another_arm(tmp_path: Path) -> None:
    for digest in ("a" * 64, "b" * 64):
        written(tmp_path / digest)
        (directory,) = (file.parent for file in (tmp_path / digest).rglob("run.json"))
        for name, changed in (
            ("provenance.json", {"data": {"train": {"fingerprint": digest}}}),
            ("run.json", {"identity": digest[:8]}),
        ):
            file = directory / name
            file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    assert [arm.label for arm in arms_of(tmp_path)] == [
        "dynamic gradnorm, training data aaaaaaaaaaaa",
        "dynamic gradnorm, training data bbbbbbbbbbbb",
    ]


def test_jaccard_by_hand() -> None:
    first, second = frozenset("abc"), frozenset("bcde")
    assert agreement.jaccard(first, second) == 2 / 5
    assert agreement.jaccard(first, first) == 1
    assert agreement.jaccard(first, frozenset("xy")) == 0


def test_jaccard_by_chance_is_the_mean_over_all_pairs_of_allocations() -> None:
    chosen = [frozenset(sites) for sites in combinations(range(6), 3)]
    every = [agreement.jaccard(first, second) for first in chosen for second in chosen]
    assert agreement.jaccard_by_chance(6, 3) == pytest.approx(sum(every) / len(every))


def test_seeds_are_compared_after_the_last_search(tmp_path: Path) -> None:
    enabled = {0: [[0, 1], [2, 3]], 13: [[0, 1], [2, 0]], 42: [[0, 1], [3, 2]]}
    for seed, on in enabled.items():
        written(tmp_path, f"seed={seed}", scores=[FLAT] * 2, enabled=on)
    found = agreement.jaccard_between(runs(tmp_path))
    assert found == {(0, 13): 1 / 3, (0, 42): 1.0, (13, 42): 1 / 3}


def test_runs_that_never_searched_are_passed_over(tmp_path: Path) -> None:
    written(tmp_path, "strategy=homogeneous", scores=[], enabled=[])
    written(tmp_path, "strategy=homogeneous", "seed=1", scores=[], enabled=[])
    assert agreement.jaccard_between(runs(tmp_path)) == {}
    assert agreement.by_proxy(arms_of(tmp_path)) == {}


def test_churn_by_hand(tmp_path: Path) -> None:
    enabled = [[0, 1], [0, 1], [1, 2], [3], [0, 3]]
    written(tmp_path, scores=[FLAT] * 5, enabled=enabled)
    assert agreement.churn([only(tmp_path)]) == [0, 1 / 2, 1, 1 / 2]


def test_spearman_by_hand() -> None:
    first, second = scores(1, 2, 3, 4), scores(10, 30, 20, 40)
    # 1 - 6 (0 + 1 + 1 + 0) / (4 (16 - 1))
    assert agreement.spearman(first, second) == pytest.approx(0.8)
    backwards = dict(reversed(second.items()))
    assert agreement.spearman(first, backwards) == pytest.approx(0.8)
    assert math.isnan(agreement.spearman(first, FLAT))


def test_proxies_are_compared_on_the_first_search_of_common_seeds(tmp_path: Path) -> None:
    late = scores(4, 3, 2, 1)
    for seed, second in {0: scores(10, 30, 20, 40), 13: scores(4, 3, 2, 1), 42: FLAT}.items():
        first = [scores(1, 2, 3, 4), late]
        written(tmp_path, f"seed={seed}", scores=first, enabled=[[0], [1]])
        other = [second, late]
        written(tmp_path, f"seed={seed}", "proxy=snip", scores=other, enabled=[[0], [1]])
    written(tmp_path, "seed=7", "proxy=snip", scores=[late], enabled=[[0]])
    written(tmp_path, "seed=0", "proxy=constant")
    written(tmp_path, "seed=0", "proxy=synflow", "rank_budget=r8")
    groups = agreement.by_proxy(arms_of(tmp_path))
    assert list(groups) == ["dynamic, r2"]
    (pair,) = agreement.spearman_between(groups["dynamic, r2"]).items()
    assert pair[0] == ("dynamic gradnorm, r2", "dynamic snip, r2")
    assert pair[1] == pytest.approx([0.8, -1.0])
