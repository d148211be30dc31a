"""What n seeds can say: spread within a cell, and paired comparisons between two arms.

All accuracies are in percent, all differences in points.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE, ALPHA, POWER = 0.95, 0.05, 0.8

DIGITS = 9
"""Differences are rounded to this many decimals: what is left of equal shares is float noise."""


@dataclass(frozen=True)
class Spread:
    """The centre and width of some numbers.

    Attributes:
        n: how many there are.
        mean: their mean.
        std: their sample standard deviation (divisor n - 1); None for a single one.
        median: their median.
    """

    n: int
    mean: float
    std: float | None
    median: float


@dataclass(frozen=True)
class Paired:
    """Arm a against arm b, over the seeds that both have.

    Attributes:
        seeds: those seeds.
        difference: the mean of a - b over them; None where there is no such seed.
        std: the sample standard deviation of the differences; None below two seeds.
        interval: the 95 % t interval of the mean difference; None below two seeds, and where the
            differences do not vary at all.
        p: the exact two-sided sign-flip p value; None below two seeds.
    """

    seeds: tuple[int, ...]
    difference: float | None
    std: float | None
    interval: tuple[float, float] | None
    p: float | None

    @property
    def n(self) -> int:
        """How many seeds both arms have."""
        return len(self.seeds)


def spread(values: Sequence[float]) -> Spread | None:
    """Mean, sample standard deviation and median; None for no values.

    The paper's cells are mean and sample standard deviation over seeds.
    """
    if not values:
        return None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(len(values), float(np.mean(values)), std, float(np.median(values)))


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Paired:
    """Compare two arms seed by seed: the difference d_s = a_s - b_s for each common seed s.

    Args:
        a: the number of each seed of the one arm.
        b: the same of the other.
    """
    seeds = tuple(sorted(a.keys() & b.keys()))
    differences = np.round([a[seed] - b[seed] for seed in seeds], DIGITS)
    found = spread(differences.tolist())
    if found is None or found.std is None:
        return Paired(seeds, found.mean if found else None, None, None, None)
    interval = None
    if found.std > 0:
        test = stats.ttest_rel(differences, np.zeros_like(differences))
        bounds = test.confidence_interval(CONFIDENCE)
        interval = (float(bounds.low), float(bounds.high))
    return Paired(seeds, found.mean, found.std, interval, sign_flip(differences.tolist()))


def sign_flip(differences: Sequence[float]) -> float:
    """The exact two-sided p value of paired differences under random signs.

    If neither arm is better, each difference could as well have had the other sign. p is twice
    the smaller tail of the mean over all 2^n sign vectors, at most 1; it is never below
    `smallest_p(n)`.
    """
    test = stats.permutation_test(
        (np.asarray(differences),),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        batch=2**14,
        vectorized=True,
    )
    return float(test.pvalue)


def smallest_p(n: int) -> float:
    """The least p value that an exact sign-flip test of n pairs can give: 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - n))


def fewest_pairs(comparisons: int) -> int:
    """The least n whose `smallest_p` times the comparisons (Holm's first step) is below 0.05."""
    return _smallest(lambda n: comparisons * smallest_p(n) < ALPHA, 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for m tests (Holm, 1979), in the order given.

    With p_(1) <= ... <= p_(m), the corrected value of p_(i) is
    max over j <= i of min(1, (m - j + 1) p_(j)).
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def power(n: int, difference: float, std: float) -> float:
    """The chance that a two-sided paired t test of n pairs at alpha 0.05 sees `difference`.

    With delta = sqrt(n) difference / std, df = n - 1 and the critical value c of the central t,
    it is P(T > c) + P(T < -c) for T noncentral t with df degrees of freedom and delta.
    """
    delta, df = math.sqrt(n) * abs(difference) / std, n - 1
    critical = stats.t.isf(ALPHA / 2, df)
    # scipy's lower tail is NaN where it is too small to be computed.
    lower = np.nan_to_num(stats.nct.cdf(-critical, df, delta))
    return float(stats.nct.sf(critical, df, delta) + lower)


def seeds_needed(difference: float, std: float | None) -> int | None:
    """The least n >= 2 with `power` 0.8 for `difference`, given the std of paired differences.

    None where the std is unknown (below two pairs) or 0, or the difference is 0.
    """
    if not std or not difference:
        return None
    return _smallest(lambda n: power(n, difference, std) >= POWER, 2)


def _smallest(holds: Callable[[int], bool], least: int) -> int:
    """The least n >= `least` for which a condition holds that stays true once it is."""
    high = least
    while not holds(high):
        high *= 2
    low = max(least, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
