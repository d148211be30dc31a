"""When each strategy searches, and what a search does."""

import math

import pytest
from conftest import CONF, composed
from hypothesis import given
from hypothesis import strategies as st
from support import configured, randomise, subject

from heterolora import strategies
from heterolora.allocation import Pool, homogeneous_budget
from heterolora.seeding import python_generator
from heterolora.strategies import Strategy
from heterolora.strategies.dynamic import Dynamic
from heterolora.strategies.search import Search

ALL = sorted(file.stem for file in (CONF / "strategy").glob("*.yaml"))


def configured_strategy(name: str, **changes: object) -> Strategy:
    kind = strategies.find(name)
    assert kind is not None
    strategy = kind(**(dict(composed(f"strategy={name}").strategy) | changes))
    assert isinstance(strategy, Strategy)
    return strategy


@pytest.mark.parametrize(
    ("name", "changes", "steps", "expected"),
    [
        ("homogeneous", {}, 459, [[], []]),
        ("static", {}, 459, [[0], []]),
        ("dynamic", {}, 459, [[0, 92, 184, 276, 368]] * 2),
        ("dynamic", {"searches_per_epoch": 1}, 459, [[0]] * 2),
        ("dynamic", {"searches_per_epoch": 2}, 459, [[0, 230]] * 2),
        ("dynamic", {"searches_per_epoch": 10}, 459, [list(range(0, 459, 46))] * 2),
        ("dynamic", {}, 11, [[0, 3, 6, 9]] * 2),
        ("dynamic", {}, 1, [[0]] * 2),
    ],
)
def test_exact_search_steps(name, changes, steps, expected) -> None:
    strategy = configured_strategy(name, **changes)
    assert [list(strategy.search_steps(epoch, steps)) for epoch in (0, 1)] == expected


@pytest.mark.parametrize("strategy", [configured_strategy(name) for name in ALL], ids=ALL)
@given(steps=st.integers(1, 5000), epoch=st.integers(0, 30))
def test_contract(strategy: Strategy, steps: int, epoch: int) -> None:
    made = list(strategy.search_steps(epoch, steps))
    assert made == sorted(set(made))
    assert all(0 <= step < steps for step in made)
    assert strategy.searches == bool(strategy.search_steps(0, steps))
    if strategy.searches:
        assert strategy.search_steps(0, steps)[0] == 0
    else:
        assert strategy.enable_rate == 1


@given(steps=st.integers(1, 5000), searches=st.integers(1, 20))
def test_dynamic_never_searches_more_often_than_asked(steps: int, searches: int) -> None:
    strategy = Dynamic(enable_rate=0.25, searches_per_epoch=searches)
    made = strategy.search_steps(0, steps)
    assert len(made) <= searches
    assert made.step == math.ceil(steps / searches)


@pytest.fixture
def here(checkpoints, pairs):
    """Six sites of equal cost."""
    subject_here = subject(checkpoints["opt-post-norm"], pairs)
    randomise(subject_here.inventory)
    return subject_here


def search(here, proxy, seed: int = 0, rate: float = 0.5) -> Search:
    costs = here.inventory.unit_costs()
    pool = Pool(frozenset(costs), round(rate * 2 * sum(costs.values())))
    return Search(proxy, here, [pool], python_generator(seed, "selection"))


def test_a_search_switches_the_best_on_and_records_it(here) -> None:
    proxy = configured("gradnorm")
    row = search(here, proxy)()
    best = sorted(row["scores"], key=row["scores"].get, reverse=True)[:3]
    assert {str(site) for site in here.inventory.enabled} == set(best)
    assert {site for site, rank in row["ranks"].items() if rank == 2} == set(best)
    assert set(row["ranks"].values()) == {0, 2}
    assert row["parameters"] == here.inventory.enabled_count()
    assert row["proxy"] == proxy.model_dump()
    assert (row["degenerate"], row["tied"]) == (False, 0)


@pytest.mark.parametrize("name", ["constant", "snip", "synflow"])
def test_degenerate_searches_are_random_and_recorded(name, checkpoints, pairs) -> None:
    """SNIP and SYNFLOW vanish where B = 0; the allocation then is a draw of the seed."""
    blank = subject(checkpoints["opt-post-norm"], pairs)
    changes = {} if name == "constant" else {"weights": "current"}
    drawn = set()
    for seed in range(8):
        row = search(blank, configured(name, **changes), seed)()
        assert (row["degenerate"], row["tied"]) == (True, 6)
        drawn.add(blank.inventory.enabled)
    assert len(drawn) > 3


def test_equal_seeds_make_equal_searches_one_after_another(here) -> None:
    first, second = (search(here, configured("constant"), seed=4) for _ in range(2))
    sequence = [first()["ranks"] for _ in range(5)]
    assert [second()["ranks"] for _ in range(5)] == sequence
    assert any(row != sequence[0] for row in sequence)


def test_the_homogeneous_budget_is_the_sum_over_sites(here) -> None:
    costs = here.inventory.unit_costs()
    assert homogeneous_budget(costs, dict.fromkeys(costs, 2)) == 6 * 2 * (16 + 16)
