"""Selection: parameters nearest to the budget, the best sites first, ties broken evenly."""

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from conftest import case_name
from hypothesis import given, settings
from hypothesis import strategies as st

from heterolora.allocation import (
    Allocation,
    Candidates,
    Pool,
    Proportional,
    Selection,
    Top,
    Waterfill,
    enabled_rank,
    homogeneous_budget,
    make_pools,
)
from heterolora.allocation import pools as pools_module
from heterolora.allocation.budget import nearest_prefix
from heterolora.errors import AllocationError
from heterolora.settings import added, class_in, names_in
from heterolora.sites import ROLES, Site

patiently = settings(deadline=None)
fewer = settings(deadline=None, max_examples=40)  # where to draw an example is dear
Problem = tuple[dict[Site, float], dict[Site, int], int]


def sites(count: int) -> list[Site]:
    """`count` sites: q and v of layer 0, then of layer 1, and so on."""
    return [Site(index // 2, "qv"[index % 2]) for index in range(count)]


def equal(scores: list[float], cost: int = 1) -> tuple[dict[Site, float], dict[Site, int]]:
    where = sites(len(scores))
    return dict(zip(where, scores, strict=True)), dict.fromkeys(where, cost)


def select(
    scores: dict[Site, float], costs: dict[Site, int], budget: int, rng: random.Random
) -> Allocation:
    """The paper's selection of sites that are on, at these costs, or off."""
    return Top().select(Candidates(scores, costs, dict.fromkeys(costs, 1)), budget, rng)


def select_pools(
    scores: dict[Site, float], costs: dict[Site, int], pools: list[Pool], rng: random.Random
) -> Allocation:
    candidates = Candidates(scores, costs, dict.fromkeys(costs, 1))
    return pools_module.select_pools(Top(), candidates, pools, rng)


@st.composite
def problems(draw: st.DrawFn, values: st.SearchStrategy[float] | None = None) -> Problem:
    """Scores (often tied), unequal costs, and a budget from which something can be bought."""
    where = sites(draw(st.integers(1, 24)))
    few = st.sampled_from([-1.0, 0.0, 0.5, 2.0])
    values = values or st.one_of(few, st.floats(-1e6, 1e6))
    scores = {site: draw(values) for site in where}
    costs = {site: draw(st.integers(1, 50)) for site in where}
    # Above half of any one cost, so that one site is always nearer than none.
    return scores, costs, draw(st.integers(26, sum(costs.values()) + 60))


@patiently
@given(problems(), st.randoms(use_true_random=False))
def test_parameters_are_the_nearest_of_all_prefixes_in_descending_order(
    problem: Problem, rng: random.Random
) -> None:
    _, costs, budget = problem
    order = list(costs)
    rng.shuffle(order)
    scores = {site: -float(place) for place, site in enumerate(order)}
    made = select(scores, costs, budget, random.Random(0))
    distances = [abs(budget - sum(costs[s] for s in order[:n])) for n in range(len(order) + 1)]
    # `index` finds the first: where two prefixes are as near, the one with fewer sites.
    assert made.enabled == set(order[: distances.index(min(distances))])


@patiently
@given(problems(), st.integers(0, 2**32))
def test_no_prefix_that_every_order_of_ties_has_is_nearer(problem: Problem, seed: int) -> None:
    scores, costs, budget = problem
    made = select(scores, costs, budget, random.Random(seed))
    for cut in scores.values():
        above = sum(costs[site] for site in scores if scores[site] >= cut)
        assert abs(budget - made.parameters) <= abs(budget - above)


@patiently
@given(problems(), st.integers(0, 2**32))
def test_no_site_that_is_on_scores_lower_than_one_that_is_off(problem: Problem, seed: int) -> None:
    scores, costs, budget = problem
    on = select(scores, costs, budget, random.Random(seed)).enabled
    off = scores.keys() - on
    assert on
    assert all(scores[high] >= scores[low] for high, low in itertools.product(on, off))


@patiently
@given(problems(), st.integers(0, 2**32))
def test_a_choice_is_its_generator_s_and_not_the_order_of_the_scores(
    problem: Problem, seed: int
) -> None:
    scores, costs, budget = problem
    backwards = dict(reversed(scores.items()))
    first = select(scores, costs, budget, random.Random(seed))
    assert select(backwards, costs, budget, random.Random(seed)) == first
    assert first.parameters == sum(costs[site] for site in first.enabled)


@patiently
@given(problems(), st.integers(0, 2**32))
def test_the_generator_ends_where_it_does_whatever_the_scores(problem: Problem, seed: int) -> None:
    scores, costs, budget = problem
    ranked = {site: float(index) for index, site in enumerate(scores)}
    generators = [random.Random(seed) for _ in range(3)]
    for values, rng in zip((scores, ranked, dict.fromkeys(scores, 0.0)), generators, strict=True):
        select(values, costs, budget, rng)
    assert len({rng.getstate() for rng in generators}) == 1


@patiently
@given(problems(), st.integers(0, 2**32))
def test_ties_and_degenerate_scores_are_told(problem: Problem, seed: int) -> None:
    scores, costs, budget = problem
    made = select(scores, costs, budget, random.Random(seed))
    off = scores.keys() - made.enabled
    shared = {scores[site] for site in made.enabled} & {scores[site] for site in off}
    assert made.tied == sum(scores[site] in shared for site in scores)
    assert made.degenerate == (len(scores) > 1 and min(scores.values()) == max(scores.values()))


@pytest.mark.parametrize(
    ("scores", "budget", "tied", "degenerate"),
    [
        ([3, 2, 1, 0], 2, 0, False),
        ([3, 2, 2, 2], 2, 3, False),
        ([3, 3, 2, 2], 2, 0, False),  # ties on one side of the cut only
        ([3, 2, 2, 0], 2, 2, False),
        ([1, 1, 1, 1], 2, 4, True),
        ([1, 1, 1, 1], 4, 0, True),  # all on: nothing was left to chance
        ([0.0, -0.0, 0.0, 0.0], 2, 4, True),
        ([1], 1, 0, False),
    ],
)
def test_ties_by_hand(scores: list[float], budget: int, tied: int, degenerate: bool) -> None:
    made = select(*equal(scores), budget, random.Random(0))
    assert (made.tied, made.degenerate, made.parameters) == (tied, degenerate, budget)


def test_the_paper_s_counts() -> None:
    """12 of 48 sites (LoRA) and 36 of 143 (with shortcuts) at enable rate 0.25."""
    for total, on in ((48, 12), (143, 36)):
        made = select(*equal([0.0] * total, cost=8 * 2048), total * 2 * 2048, random.Random(1))
        assert len(made.enabled) == on


@patiently
@given(
    count=st.integers(1, 200),
    budget_rank=st.integers(1, 8),
    rate=st.sampled_from([Fraction(1, n) for n in (1, 2, 3, 4, 8)]),
    cost=st.integers(1, 5000),
)
def test_equal_costs_switch_on_the_rounded_share(
    count: int, budget_rank: int, rate: Fraction, cost: int
) -> None:
    where = sites(count)
    unit = dict.fromkeys(where, cost)
    budget = homogeneous_budget(unit, dict.fromkeys(where, budget_rank))
    assert budget == count * cost * budget_rank
    costs = [cost * int(budget_rank / rate)] * count
    # The nearest whole number of sites; exactly between two, the fewer.
    assert nearest_prefix(costs, budget) == math.ceil(rate * count - Fraction(1, 2))


def test_the_budget_counts_parameters_and_not_sites() -> None:
    q, up = Site(0, "q"), Site(0, "up")
    assert homogeneous_budget({q: 2048, up: 5120}, {q: 2, up: 3}) == 2 * 2048 + 3 * 5120
    scores, costs = {q: 1.0, up: 2.0}, {q: 10, up: 100}
    assert select(scores, costs, 100, random.Random(0)) == Allocation({q: 0, up: 1}, 100)


def test_over_budget_where_that_is_nearer_and_under_where_both_are_as_near() -> None:
    assert nearest_prefix([10, 10, 10], 16) == 2
    assert nearest_prefix([10, 10, 10], 15) == 1
    assert nearest_prefix([10, 10, 10], 5) == 0
    assert nearest_prefix([10, 10, 10], 1000) == 3
    assert nearest_prefix([], 7) == 0


def test_ties_are_broken_evenly() -> None:
    """Every subset of 2 of the 4 tied sites as often as any other: 5 degrees of freedom."""
    scores, costs = equal([9.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    rng = random.Random(12345)
    counts: dict[frozenset[Site], int] = {}
    for _ in range(6000):
        on = select(scores, costs, 3, rng).enabled
        counts[on] = counts.get(on, 0) + 1
    assert len(counts) == math.comb(4, 2)
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 20.5  # 99.9th percentile


def test_seeds_next_to_each_other_choose_apart() -> None:
    scores, costs = equal([0.0] * 4)
    chosen = [select(scores, costs, 1, random.Random(seed)).enabled for seed in range(2000)]
    for site in scores:
        assert chosen.count(frozenset({site})) == pytest.approx(500, abs=100)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_an_error(bad: float) -> None:
    with pytest.raises(AllocationError) as raised:
        select(*equal([1.0, bad, 2.0, bad]), 2, random.Random(0))
    message = str(raised.value)
    assert "\n" not in message
    assert "2 sites" in message
    assert f"layers.0.v = {bad}" in message


@fewer
@given(problems(), st.integers(0, 2**32))
def test_a_budget_nearest_to_nothing_is_an_error(problem: Problem, seed: int) -> None:
    scores, costs, _ = problem
    with pytest.raises(AllocationError, match=r"^a budget of 0 parameters .*; raise .*$"):
        select(scores, costs, 0, random.Random(seed))


@st.composite
def mixed(draw: st.DrawFn) -> tuple[dict[Site, float], dict[Site, int], dict[Site, int]]:
    """Scores, unit costs and ranks of LoRA and shortcut sites, some of each kind or of one.

    Four layers, so that a quarter of any kind buys a site.
    """
    roles = draw(st.lists(st.sampled_from(ROLES), min_size=1, unique=True))
    where = [Site(layer, role) for layer in range(draw(st.integers(4, 6))) for role in roles]
    scores = {site: draw(st.sampled_from([0.0, 1.0, 2.0, 3.0])) for site in where}
    unit = {site: draw(st.integers(16, 32)) for site in where}
    rank = {"lora": draw(st.integers(1, 8)), "shortcut": draw(st.integers(1, 8))}
    return scores, unit, {site: rank[site.kind] for site in where}


@fewer
@given(mixed(), st.sampled_from(["combined", "separated"]))
def test_pools_part_the_sites_and_the_budget(problem, kind: str) -> None:
    _, unit, ranks = problem
    made = make_pools(kind, unit, ranks)
    assert sorted(map(str, itertools.chain(*(pool.sites for pool in made)))) == sorted(
        map(str, unit)
    )
    assert sum(pool.budget for pool in made) == homogeneous_budget(unit, ranks)
    kinds = [{site.kind for site in pool.sites} for pool in made]
    if kind == "combined":
        assert len(made) == 1
    else:
        assert all(len(of) == 1 for of in kinds)
        assert len(made) == len({site.kind for site in unit})


@fewer
@given(mixed(), st.integers(0, 2**32))
def test_a_combined_pool_is_one_selection(problem, seed: int) -> None:
    scores, unit, ranks = problem
    costs = {site: unit[site] * ranks[site] for site in unit}
    made = make_pools("combined", unit, ranks)
    alone = select(scores, costs, made[0].budget, random.Random(seed))
    assert select_pools(scores, costs, made, random.Random(seed)) == alone


@fewer
@given(mixed(), st.integers(1, 4), st.integers(0, 2**32))
def test_separated_kinds_do_not_see_each_other(problem, share: int, seed: int) -> None:
    """Each kind is nearest to its own budget; raising all scores of one changes no choice."""
    scores, unit, ranks = problem
    costs = {site: unit[site] * ranks[site] * share for site in unit}
    made = make_pools("separated", unit, ranks)
    chosen = select_pools(scores, costs, made, random.Random(seed))
    rng = random.Random(seed)
    parts = [
        select({s: scores[s] for s in p.sites}, {s: costs[s] for s in p.sites}, p.budget, rng)
        for p in made
    ]
    assert chosen.enabled == frozenset().union(*(part.enabled for part in parts))
    assert chosen.parameters == sum(part.parameters for part in parts)
    assert chosen.tied == sum(part.tied for part in parts)
    assert chosen.degenerate == any(part.degenerate for part in parts)
    raised = {site: score + 100 * (site.kind == "lora") for site, score in scores.items()}
    again = select_pools(raised, costs, made, random.Random(seed))
    assert again.enabled == chosen.enabled


def test_pools_by_hand() -> None:
    """Both LoRA sites win over both shortcuts in one ranking, and one of each where separated."""
    scores = {Site(0, "q"): 4.0, Site(0, "v"): 3.0, Site(0, "in"): 2.0, Site(1, "cut"): 2.0}
    unit, ranks = dict.fromkeys(scores, 10), dict.fromkeys(scores, 1)
    costs = dict.fromkeys(scores, 20)
    combined = make_pools("combined", unit, ranks)
    assert combined == [Pool(frozenset(scores), 40)]
    made = select_pools(scores, costs, combined, random.Random(0))
    assert made.enabled == {Site(0, "q"), Site(0, "v")}
    assert (made.tied, made.degenerate, made.parameters) == (0, False, 40)
    separated = make_pools("separated", unit, ranks)
    assert [pool.budget for pool in separated] == [20, 20]
    made = select_pools(scores, costs, separated, random.Random(0))
    assert Site(0, "q") in made.enabled
    assert len(made.enabled & {Site(0, "in"), Site(1, "cut")}) == 1
    assert (made.tied, made.degenerate, made.parameters) == (2, True, 40)


PACKAGE = "heterolora.allocation.selection"
SELECTIONS = [
    *(Top(), Top(floor=1), Top(normalize="role")),
    *(Proportional(), Proportional(floor=1), Proportional(normalize="role")),
    *(Waterfill(), Waterfill(floor=1), Waterfill(normalize="role")),
    *(class_in(PACKAGE, name)() for name in added(PACKAGE)),
]
every_selection = pytest.mark.parametrize("selection", SELECTIONS, ids=case_name)


def test_every_selection_is_tested() -> None:
    assert {*names_in(PACKAGE)} == {selection.name for selection in SELECTIONS}


@st.composite
def sized(draw: st.DrawFn) -> tuple[Candidates, int]:
    """Sites of unequal size and capacity, and a budget that every selection can spend."""
    where = draw(st.permutations(sites(draw(st.integers(1, 12)))))
    values = st.one_of(st.sampled_from([0.0, 1.0, 2.0]), st.floats(0, 1e6))
    scores = {site: draw(values) for site in where}
    candidates = Candidates(
        scores=scores,
        unit_costs={site: draw(st.integers(1, 20)) for site in where},
        capacities={site: draw(st.integers(1, 8)) for site in where},
        gains={site: [score / rank for rank in range(1, 9)] for site, score in scores.items()},
    )
    whole = candidates.parameters(candidates.capacities)
    largest = max(candidates.unit_costs[s] * candidates.capacities[s] for s in where)
    floors = sum(candidates.unit_costs.values())
    return candidates, draw(st.integers(max(floors, largest), whole + 50))


def within_capacity_and_counted(
    selection: Selection, problem: Candidates, made: Allocation
) -> None:
    assert list(made.ranks) == list(problem.scores)
    for site, rank in made.ranks.items():
        assert isinstance(rank, int)
        assert selection.floor <= rank <= problem.capacities[site]
    counted = sum(rank * problem.unit_costs[site] for site, rank in made.ranks.items())
    assert made.parameters == counted
    assert made.enabled == {site for site, rank in made.ranks.items() if rank > 0}


def its_generators_alone(
    selection: Selection, problem: Candidates, budget: int, made: Allocation, seed: int
) -> None:
    """The order of the scores does not matter, and one draw is made whatever the scores are."""
    backwards = replace(problem, scores=dict(reversed(problem.scores.items())))
    flat = replace(problem, scores=dict.fromkeys(problem.scores, 1.0))
    generators = [random.Random(seed) for _ in range(3)]
    same, again, _ = (
        selection.select(one, budget, rng)
        for one, rng in zip((problem, backwards, flat), generators, strict=True)
    )
    assert same == made
    assert again.ranks == made.ranks
    assert len({rng.getstate() for rng in generators}) == 1


def rising_with_scores_among_sites_of_one_size(
    selection: Selection, problem: Candidates, made: Allocation
) -> None:
    size = {s: (problem.unit_costs[s], problem.capacities[s]) for s in made.ranks}
    apart = selection.normalize == "role"
    for high, low in itertools.permutations(made.ranks, 2):
        if apart and high.role != low.role:
            continue
        if size[high] == size[low] and problem.scores[high] > problem.scores[low]:
            assert made.ranks[high] >= made.ranks[low]


def no_neighboring_count_nearer_to_the_budget(
    selection: Selection, problem: Candidates, budget: int, made: Allocation
) -> None:
    """Switching off what was granted last or on what comes next is no nearer to the budget."""
    distance = abs(budget - made.parameters)
    whole = isinstance(selection, Top)
    floor = selection.floor

    def step(site: Site) -> int:
        claim = problem.capacities[site] - floor if whole else 1
        return problem.unit_costs[site] * claim

    off = [s for s, rank in made.ranks.items() if rank < problem.capacities[s]]
    on = [s for s, rank in made.ranks.items() if rank > floor]
    if made.parameters < budget and off:
        assert distance <= max(map(step, off))
    if made.parameters > budget and on:
        assert distance <= max(map(step, on))
    if len({*map(step, made.ranks)}) == 1 and on and off:
        assert distance * 2 <= step(on[0])  # the nearest multiple that there is


@every_selection
@patiently
@given(problem=sized(), seed=st.integers(0, 2**32))
def test_contract(selection: Selection, problem: tuple[Candidates, int], seed: int) -> None:
    """The properties above, of one selection each: to draw a problem is what takes its time."""
    candidates, budget = problem
    made = selection.select(candidates, budget, random.Random(seed))
    within_capacity_and_counted(selection, candidates, made)
    its_generators_alone(selection, candidates, budget, made, seed)
    rising_with_scores_among_sites_of_one_size(selection, candidates, made)
    no_neighboring_count_nearer_to_the_budget(selection, candidates, budget, made)


@every_selection
def test_every_selection_refuses_scores_that_are_not_finite(selection: Selection) -> None:
    with pytest.raises(AllocationError, match=r"layers\.0\.v = nan"):
        Candidates({Site(0, "q"): 1.0, Site(0, "v"): math.nan}, {}, {})


def test_proportional_by_hand() -> None:
    """Scores 6 : 3 : 1 and ten ranks of equal cost: 6, 3 and 1."""
    q, v, o = Site(0, "q"), Site(0, "v"), Site(0, "o")
    scores, unit = {q: 6.0, v: 3.0, o: 1.0}, dict.fromkeys((q, v, o), 10)
    wide = Candidates(scores, unit, dict.fromkeys(scores, 10))
    made = Proportional().select(wide, 100, random.Random(0))
    assert made.ranks == {q: 6, v: 3, o: 1}
    assert (made.parameters, made.tied, made.degenerate) == (100, 0, False)
    # At most four ranks a site: what q cannot hold goes to the next.
    narrow = Candidates(scores, unit, dict.fromkeys(scores, 4))
    assert Proportional().select(narrow, 100, random.Random(0)).ranks == {q: 4, v: 4, o: 2}
    floored = Proportional(floor=2).select(wide, 100, random.Random(0))
    assert floored.ranks == {q: 5, v: 3, o: 2}


@patiently
@given(
    scores=st.lists(st.floats(0.1, 100), min_size=2, max_size=8),
    seats=st.integers(1, 40),
)
def test_proportional_is_sainte_lagues_method(scores: list[float], seats: int) -> None:
    """Written out: each seat in turn to the highest score / (2 seats + 1)."""
    where = sites(len(scores))
    ranks = dict.fromkeys(where, 0)
    clear = True
    for _ in range(seats):
        claims = [score / (2 * ranks[s] + 1) for s, score in zip(where, scores, strict=True)]
        best = max(claims)
        clear = clear and sum(math.isclose(claim, best) for claim in claims) == 1
        ranks[where[claims.index(best)]] += 1
    candidates = Candidates(
        dict(zip(where, scores, strict=True)),
        dict.fromkeys(where, 7),
        dict.fromkeys(where, 40),
    )
    made = Proportional().select(candidates, 7 * seats, random.Random(0))
    assert sum(made.ranks.values()) == seats
    if clear:
        assert made.ranks == ranks


def test_proportional_with_equal_scores_is_nearly_homogeneous_and_says_so() -> None:
    scores, unit = equal([1.0] * 4, cost=10)
    candidates = Candidates(scores, unit, dict.fromkeys(scores, 8))
    made = Proportional().select(candidates, 90, random.Random(0))
    assert sorted(made.ranks.values()) == [2, 2, 2, 3]
    assert (made.tied, made.degenerate) == (4, True)
    chosen = {
        max(ranks, key=ranks.__getitem__)
        for ranks in (
            Proportional().select(candidates, 90, random.Random(seed)).ranks for seed in range(50)
        )
    }
    assert chosen == set(scores)


def test_a_floor_that_the_budget_cannot_pay_is_an_error() -> None:
    scores, unit = equal([1.0, 2.0], cost=10)
    candidates = Candidates(scores, unit, dict.fromkeys(scores, 8))
    with pytest.raises(AllocationError, match=r"^floor=3: costs 60 .* lower"):
        Proportional(floor=3).select(candidates, 50, random.Random(0))
    with pytest.raises(AllocationError, match=r"the smallest site can have rank 8"):
        Proportional(floor=9).select(candidates, 500, random.Random(0))
    with pytest.raises(ValueError, match="floor=-1: must be at least 0"):
        Proportional(floor=-1)


def test_top_with_a_floor_by_hand() -> None:
    """Budget r 2 for 16 sites: a rank for each, and the other 16 for the best, 7 at a time."""
    scores, unit = equal([float(score) for score in range(16)], cost=10)
    candidates = Candidates(scores, unit, dict.fromkeys(scores, 8))
    made = Top(floor=1).select(candidates, 320, random.Random(0))
    assert sorted(made.ranks.values()) == [1] * 14 + [8] * 2
    assert {site for site, rank in made.ranks.items() if rank == 8} == set(sites(16)[-2:])
    assert made.parameters == 300
    all_on = Top(floor=8).select(candidates, 1290, random.Random(0))
    assert set(all_on.ranks.values()) == {8}


def test_scores_relative_to_their_role() -> None:
    """Values score a thousand times as high; relative to its role, a query is the best."""
    scores = {Site(0, "q"): 1.0, Site(1, "q"): 9.0, Site(0, "v"): 4000.0, Site(1, "v"): 6000.0}
    candidates = Candidates(scores, dict.fromkeys(scores, 1), dict.fromkeys(scores, 1))
    assert candidates.relative_to_role().scores == {
        **{Site(0, "q"): 0.2, Site(1, "q"): 1.8},
        **{Site(0, "v"): 0.8, Site(1, "v"): 1.2},
    }
    assert Top().select(candidates, 1, random.Random(0)).enabled == {Site(1, "v")}
    chosen = Top(normalize="role").select(candidates, 2, random.Random(0))
    assert chosen.enabled == {Site(1, "q"), Site(1, "v")}
    nothing = Candidates(dict.fromkeys(scores, 0.0), candidates.unit_costs, candidates.capacities)
    assert set(nothing.relative_to_role().scores.values()) == {0.0}


@patiently
@given(
    table=st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=2, max_size=4),
    budget=st.integers(1, 12),
)
def test_waterfill_is_optimal(table: list[list[int]], budget: int) -> None:
    """No ranks of the same parameters gain more: all are tried."""
    where = sites(len(table))
    gains = {s: sorted(map(float, row), reverse=True) for s, row in zip(where, table, strict=True)}
    scores = {site: sum(values) for site, values in gains.items()}
    candidates = Candidates(scores, dict.fromkeys(where, 1), dict.fromkeys(where, 3), gains)
    made = Waterfill().select(candidates, budget, random.Random(0))
    spent = min(budget, 3 * len(where))
    assert made.parameters == spent

    def gained(ranks: Sequence[int]) -> float:
        return sum(sum(gains[s][:rank]) for s, rank in zip(where, ranks, strict=True))

    tried = itertools.product(range(4), repeat=len(where))
    best = max(gained(ranks) for ranks in tried if sum(ranks) == spent)
    assert gained(list(made.ranks.values())) == best


def test_waterfill_counts_what_a_rank_costs() -> None:
    """The dear site gains more with its first rank, but less for each parameter."""
    cheap, dear = Site(0, "q"), Site(0, "up")
    candidates = Candidates(
        scores={cheap: 3.0, dear: 5.0},
        unit_costs={cheap: 10, dear: 40},
        capacities={cheap: 2, dear: 2},
        gains={cheap: [2.0, 1.0], dear: [4.5, 0.5]},
    )
    made = [Waterfill().select(candidates, b, random.Random(0)).ranks for b in (10, 50, 60)]
    assert made == [{cheap: 1, dear: 0}, {cheap: 1, dear: 1}, {cheap: 2, dear: 1}]


def test_waterfill_needs_gains_that_never_rise() -> None:
    scores, unit = equal([1.0, 2.0])
    with pytest.raises(AllocationError, match=r"^selection=waterfill: needs the gain of each rank"):
        Waterfill().select(Candidates(scores, unit, unit), 1, random.Random(0))
    with pytest.raises(ValueError, match=r"^layers\.0\.q: the gain of a rank must not exceed"):
        Candidates(scores, unit, unit, {site: [1.0, 2.0] for site in scores})
    with pytest.raises(AllocationError, match=r"^gains of 2 sites are not finite"):
        Candidates(scores, unit, unit, {site: [math.inf, 2.0] for site in scores})


def test_a_budget_below_one_rank_for_each_site() -> None:
    """A quarter of a rank at 16 sites of 192 parameters a rank: four sites at rank 1."""
    scores, unit = equal([float(score) for score in range(16)], cost=192)
    budget = homogeneous_budget(unit, dict.fromkeys(scores, 0.25))
    assert budget == 768
    assert enabled_rank(0.25, 0.25) == 1
    candidates = Candidates(scores, unit, dict.fromkeys(scores, 1))
    made = Top().select(candidates, budget, random.Random(0))
    assert made.enabled == set(sites(16)[-4:])
