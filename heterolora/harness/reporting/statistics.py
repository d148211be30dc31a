"""What n seeds can show: spread within a cell, and paired comparisons between two arms.

All accuracies are in percent, all differences in points.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

ALPHA, POWER = 0.05, 0.8

EXACT = 16
"""Maximum number of pairs for which all 2^n sign vectors are enumerated."""

RESAMPLES = 99_999
"""Number of sign vectors drawn for more pairs, from a generator with a fixed seed."""

DIGITS = 9
"""Differences are rounded to this many decimals, to remove float noise from equal shares."""


@dataclass(frozen=True)
class Spread:
    """The center and width of `n` numbers; `std` has the divisor n - 1 and is None for n = 1."""

    n: int
    mean: float
    std: float | None
    median: float


@dataclass(frozen=True)
class Paired:
    """Arm a against arm b, over the seeds that both have.

    Attributes:
        seeds: the seeds that both have.
        differences: a - b for each of them.
        difference: the mean of these; None if there is no such seed.
        std: the sample standard deviation of the differences; None below two seeds.
        interval: the 95 % t interval of the mean difference; None below two seeds, or if the
            differences do not vary at all.
        p: the p value of the two-sided `sign_flip` test; None below two seeds.
    """

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    difference: float | None = None
    std: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None

    @property
    def n(self) -> int:
        """The number of seeds that both arms have."""
        return len(self.seeds)


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean, sample standard deviation and median; None for no values."""
    if not values:
        return None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    if std is not None and min(values) == max(values):
        std = 0.0  # their computed mean may differ from them by float noise
    return Spread(len(values), float(np.mean(values)), std, float(np.median(values)))


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Paired:
    """Compare two arms, each a number by seed: d_s = a_s - b_s for each common seed s."""
    seeds = tuple(sorted(a.keys() & b.keys()))
    differences = tuple(np.round([a[seed] - b[seed] for seed in seeds], DIGITS).tolist())
    found = spread(differences)
    if found is None or found.std is None:
        return Paired(seeds, differences, found.mean if found else None)
    interval = None
    if found.std > 0:
        bounds = stats.ttest_1samp(differences, 0).confidence_interval(1 - ALPHA)
        interval = (float(bounds.low), float(bounds.high))
    return Paired(seeds, differences, found.mean, found.std, interval, sign_flip(differences))


def sign_flip(differences: Sequence[float]) -> float:
    """Return the two-sided p value of paired differences under random signs.

    If neither arm is better, each difference could as well have had the other sign. p is twice the
    smaller tail of the mean over sign vectors, at most 1. Up to `EXACT` pairs, all 2^n sign vectors
    are used, so that p is never below `smallest_p(n)`; beyond, `RESAMPLES` are drawn, and the
    observed one is counted among them.
    """
    test = stats.permutation_test(
        (np.asarray(differences),),
        np.mean,
        permutation_type="samples",
        n_resamples=np.inf if len(differences) <= EXACT else RESAMPLES,
        batch=2**14,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def smallest_p(n: int) -> float:
    """Return the smallest p value that an exact sign-flip test of n pairs can give: 2 / 2^n."""
    return min(1.0, 2.0 ** (1 - n))


def fewest_pairs(comparisons: int) -> int:
    """Return the least n whose `smallest_p` times the comparisons (Holm's first step) is < 0.05."""
    return math.floor(math.log2(comparisons / ALPHA)) + 2


def holm(p_values: Sequence[float]) -> list[float]:
    """Apply Holm's step-down correction (Holm, 1979), keeping the order."""
    return multipletests(p_values, method="holm")[1].tolist() if p_values else []


def power(n: int, difference: float, std: float) -> float:
    """Return the power of a two-sided paired t test of n pairs at alpha 0.05 for `difference`.

    t^2 is noncentral F with 1 and n - 1 degrees of freedom and noncentrality n (difference /
    std)^2; the test rejects if it exceeds the critical value of the central F.
    """
    critical = stats.f.isf(ALPHA, 1, n - 1)
    return float(stats.ncf.sf(critical, 1, n - 1, n * (difference / std) ** 2))


def seeds_needed(difference: float, std: float | None) -> int | None:
    """Return the least n >= 2 with `power` 0.8 for `difference`, given the differences' std.

    None if the std is unknown (below two pairs) or 0, or the difference is 0.
    """
    if not std or not difference:
        return None
    # Twice what a z test needs, plus some for small n, where t is much wider.
    z = stats.norm.isf(ALPHA / 2) + stats.norm.isf(1 - POWER)
    enough = math.ceil(2 * (z * std / difference) ** 2) + 10
    return 2 + bisect_left(range(2, enough), POWER, key=lambda n: power(n, difference, std))
