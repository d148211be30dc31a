"""The statistics, against scipy and against cases that can be worked out by hand."""

import gc
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from heterolora.harness.reporting.statistics import (
    EXACT,
    RESAMPLES,
    fewest_pairs,
    holm,
    paired,
    power,
    seeds_needed,
    sign_flip,
    smallest_p,
    spread,
)

NUMBERS = st.lists(st.integers(-50, 50).map(lambda n: n / 10), min_size=2, max_size=6)


def test_the_spread_of_a_cell_by_hand() -> None:
    found = spread([84.0, 86.0, 91.0])
    assert found is not None
    assert (found.n, found.mean, found.median) == (3, 87.0, 86.0)
    assert found.std == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    alone = spread([84.0])
    assert alone is not None
    assert (alone.mean, alone.std) == (84.0, None)
    assert spread([]) is None


def test_a_paired_comparison_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, std 1, t(0.975, 2) = 4.3027; 2 of 8 sign vectors as extreme."""
    found = paired({0: 81.0, 13: 82.0, 42: 83.0, 87: 9.0}, {0: 80.0, 13: 80.0, 42: 80.0})
    assert found.seeds == (0, 13, 42)
    assert (found.difference, found.std, found.p) == (2.0, 1.0, 0.25)
    half = 4.302653 / math.sqrt(3)
    assert found.interval == pytest.approx((2 - half, 2 + half), abs=1e-5)


def test_too_few_seeds_give_no_number_at_all() -> None:
    none = paired({0: 1.0}, {13: 2.0})
    assert (none.n, none.difference, none.std, none.interval, none.p) == (0, None, None, None, None)
    one = paired({0: 1.0}, {0: 2.5})
    assert (one.n, one.difference, one.std, one.interval, one.p) == (1, -1.5, None, None, None)


def test_differences_that_do_not_vary_have_no_interval() -> None:
    """Shares such as 0.1 + 0.2 leave float noise, which is no spread."""
    found = paired({0: 100 * 0.3, 13: 100 * (0.1 + 0.2)}, {0: 29.9, 13: 29.9})
    assert found.difference == pytest.approx(0.1)
    assert (found.std, found.interval, found.p) == (0.0, None, 0.5)
    assert seeds_needed(0.6, found.std) is None
    thrice = paired(dict.fromkeys(range(3), -2.6), dict.fromkeys(range(3), -3.0))
    assert (thrice.std, thrice.interval) == (0.0, None)  # though the mean of three 0.4 is not 0.4


@given(NUMBERS, st.data())
def test_comparisons_agree_with_scipy(a: list[float], data: st.DataObject) -> None:
    b = data.draw(st.lists(st.integers(-50, 50), min_size=len(a), max_size=len(a)))
    found = paired(dict(enumerate(a)), dict(enumerate(map(float, b))))
    differences = [x - y for x, y in zip(a, b, strict=True)]
    assert found.difference == pytest.approx(np.mean(differences))
    if found.interval is not None:
        low, high = found.interval
        expected = stats.t.interval(0.95, len(a) - 1, np.mean(differences), stats.sem(differences))
        assert (low, high) == pytest.approx(expected)
        assert low <= found.difference <= high


@given(NUMBERS)
def test_the_sign_flip_test_is_the_enumeration_of_all_signs(differences: list[float]) -> None:
    observed = sum(differences)
    flips = [
        sum(sign * d for sign, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    tails = [sum(f >= observed - 1e-9 for f in flips), sum(f <= observed + 1e-9 for f in flips)]
    expected = min(1.0, 2 * min(tails) / len(flips))
    assert sign_flip(differences) == pytest.approx(expected)
    assert sign_flip(differences) >= smallest_p(len(differences))


def test_the_least_p_that_seeds_can_give() -> None:
    assert [smallest_p(n) for n in (1, 2, 3, 5, 6)] == [1.0, 0.5, 0.25, 0.0625, 0.03125]
    assert sign_flip([1.0, 2.0, 3.0]) == smallest_p(3)
    assert fewest_pairs(1) == 6
    assert fewest_pairs(4) == 8


def test_holm_by_hand() -> None:
    """Of 0.01, 0.04, 0.03: 3 x 0.01, then 2 x 0.03, then at least that."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.fixture
def cheap_collections() -> Iterator[None]:
    """What lives already is not looked at: statsmodels collects garbage at each correction."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("cheap_collections")
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_only_raises_keeps_the_order_and_rejects_as_its_definition(p: list[float]) -> None:
    corrected = holm(p)
    assert all(0 <= before <= after <= 1 for before, after in zip(p, corrected, strict=True))
    order = sorted(range(len(p)), key=p.__getitem__)
    assert [corrected[i] for i in order] == sorted(corrected)
    rejected = 0
    while rejected < len(p) and p[order[rejected]] * (len(p) - rejected) <= 0.05:
        rejected += 1
    assert sum(value <= 0.05 for value in corrected) == rejected


def test_power_is_that_of_simulated_t_tests() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0.6, 1.0, size=(40_000, 12))
    seen = stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    assert power(12, 0.6, 1.0) == pytest.approx(seen.mean(), abs=0.01)
    assert power(12, -0.6, 1.0) == power(12, 0.6, 1.0)


@pytest.mark.parametrize(("difference", "expected"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_seeds_needed_are_those_of_the_textbook(difference: float, expected: int) -> None:
    """Cohen's small, medium and large effects, as G*Power has them for a paired t test."""
    assert seeds_needed(difference, 1.0) == expected


@given(st.floats(0.05, 5), st.floats(0.05, 5))
def test_one_seed_less_would_not_do(difference: float, std: float) -> None:
    n = seeds_needed(difference, std)
    assert n is not None
    assert n >= 2
    assert power(n, difference, std) >= 0.8
    assert n == 2 or power(n - 1, difference, std) < 0.8


def test_seeds_needed_where_nothing_is_known() -> None:
    assert seeds_needed(0.6, None) is None
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(1000.0, 0.001) == 2


def test_many_pairs_are_drawn_and_not_enumerated() -> None:
    """40 pairs have 2^40 sign vectors; the normal approximation says what the p value is about."""
    rng = np.random.default_rng(1)
    differences = rng.normal(0.3, 1.0, 40).round(2).tolist()
    p = sign_flip(differences)
    z = abs(sum(differences)) / math.sqrt(sum(d * d for d in differences))
    assert p == pytest.approx(2 * stats.norm.sf(z), abs=0.01)
    assert sign_flip(differences) == p
    assert sign_flip([1.0] * 40) == pytest.approx(2 / (RESAMPLES + 1))


def test_the_enumeration_ends_at_sixteen_pairs() -> None:
    assert EXACT == 16
    assert sign_flip([1.0] * EXACT) == smallest_p(EXACT)
    assert sign_flip([1.0] * (EXACT + 1)) > smallest_p(EXACT + 1)
