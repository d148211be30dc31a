"""When each strategy searches, and what a search does."""

import dataclasses
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import configured, randomize, settings_of, subject

from heterolora.adapters import Adapters
from heterolora.allocation import Pool, homogeneous_budget
from heterolora.harness.config import plugins
from heterolora.proxies import Constant
from heterolora.seeding import python_generator
from heterolora.sites import Site
from heterolora.strategies import Strategy
from heterolora.strategies.dynamic import Dynamic
from heterolora.strategies.pruning import Pruning
from heterolora.strategies.search import Search

ALL = plugins.choices("strategy")


def configured_strategy(name: str, **changes: object) -> Strategy:
    section = plugins.find("strategy", name)
    assert section is not None
    strategy = section(**{**settings_of("strategy")[name], **changes}).build()
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
        ("warmup", {}, 459, [[92], []]),  # ceil(91.8)
        ("warmup", {"warmup": 0.5}, 459, [[], [0]]),
        ("warmup", {"warmup": 0.99}, 3, [[], [2]]),
        # From ceil(91.8) = 92 to 459, in nine parts of 40 7/9.
        ("pruning", {}, 459, [[92, 133, 174, 214, 255, 296, 337, 377, 418], [0]]),
        ("pruning", {"pruning_searches": 2, "until": 0.75}, 100, [[20], [50]]),
        ("pruning", {}, 1, [[], [0]]),
    ],
)
def test_exact_search_steps(name, changes, steps, expected) -> None:
    """Of two epochs."""
    strategy = configured_strategy(name, **changes)
    assert [list(strategy.search_steps(epoch, steps, 2 * steps)) for epoch in (0, 1)] == expected


@pytest.mark.parametrize("strategy", [configured_strategy(name) for name in ALL], ids=ALL)
@given(steps=st.integers(1, 5000), epochs=st.integers(1, 30))
def test_contract(strategy: Strategy, steps: int, epochs: int) -> None:
    made = [
        epoch * steps + step
        for epoch in range(epochs)
        for step in strategy.search_steps(epoch, steps, epochs * steps)
    ]
    assert made == sorted(set(made))
    assert all(0 <= step < steps * epochs for step in made)
    assert strategy.searches == bool(made)
    if not strategy.searches:
        assert strategy.enable_rate == 1
    elif strategy.start is None:
        assert made[0] == 0
    else:
        assert 1 <= strategy.start <= 1 / strategy.enable_rate
    shares = [strategy.share(step / (steps * epochs)) for step in made]
    assert shares == sorted(shares, reverse=True)
    if len({*shares}) > 1 and steps * epochs > 100:
        assert shares[-1] == pytest.approx(1, abs=1e-4)  # all of it is within the budget at the end


@given(
    done=st.floats(0, 1),
    initial=st.floats(1.01, 4),
    warmup=st.floats(0.01, 0.4),
    until=st.floats(0.5, 0.99),
)
def test_pruning_is_adaloras_cubic_schedule(
    done: float, initial: float, warmup: float, until: float
) -> None:
    strategy = Pruning(initial=initial, warmup=warmup, until=until)
    if done <= warmup:
        expected = initial
    elif done >= until:
        expected = 1.0
    else:
        expected = 1 + (initial - 1) * (1 - (done - warmup) / (until - warmup)) ** 3
    assert strategy.share(done) == pytest.approx(expected)


def test_pruning_must_end_after_it_begins() -> None:
    with pytest.raises(ValueError, match=r"^until=0\.1: must be greater than warmup=0\.1"):
        Pruning(until=0.1)


@given(steps=st.integers(1, 5000), searches=st.integers(1, 20))
def test_dynamic_never_searches_more_often_than_asked(steps: int, searches: int) -> None:
    strategy = Dynamic(enable_rate=0.25, searches_per_epoch=searches)
    made = strategy.search_steps(0, steps)
    assert len(made) <= searches
    assert made.step == math.ceil(steps / searches)


def test_an_epoch_too_short_for_the_searches_asked_for_says_so() -> None:
    strategy = Dynamic(searches_per_epoch=5)
    assert strategy.shortfall(10) is None
    said = strategy.shortfall(7)
    assert said == (
        "strategy.searches_per_epoch=5: an epoch of 7 steps fits only 4 evenly spaced searches"
    )
    assert all(configured_strategy(name).shortfall(1) is None for name in ("homogeneous", "static"))


@pytest.fixture
def here(checkpoints, pairs):
    """Six sites of equal cost."""
    subject_here = subject(checkpoints["opt-post-norm"], pairs)
    randomize(subject_here.adapters)
    return subject_here


def search(here, proxy, seed: int = 0, rate: float = 0.5) -> Search:
    costs = here.adapters.unit_costs
    pool = Pool(frozenset(costs), round(rate * 2 * sum(costs.values())))
    made = Search(here.adapters, proxy, here.examples, [pool], loss=here.loss)
    made.rng = python_generator(seed, "selection")
    return made


def test_a_search_switches_the_best_on_and_records_it(here) -> None:
    proxy = configured("gradnorm")
    row = search(here, proxy)()
    best = sorted(row["scores"], key=row["scores"].get, reverse=True)[:3]
    assert {str(site) for site in here.adapters.enabled} == set(best)
    assert {site for site, rank in row["ranks"].items() if rank == 2} == set(best)
    assert set(row["ranks"].values()) == {0, 2}
    assert row["parameters"] == here.adapters.count
    assert row["proxy"] == {"name": "gradnorm", **dataclasses.asdict(proxy)}
    assert row["selection"] == {"name": "top"}
    assert row["weights"] == "current"
    assert (row["degenerate"], row["tied"]) == (False, 0)


def test_a_budget_that_is_missed_is_said_once(here, caplog: pytest.LogCaptureFixture) -> None:
    """Of six sites of equal cost one is as near as there is to the cost of 1.4."""
    near, far = (
        search(here, configured("gradnorm")),
        search(here, configured("gradnorm"), rate=1.4 / 6),
    )
    near()
    assert not caplog.messages
    far()
    far()
    (said,) = caplog.messages
    assert said.endswith("(-29 %): no choice of sites is nearer")


def test_a_record_says_which_weights_were_scored(checkpoints, pairs) -> None:
    blank = subject(checkpoints["opt-post-norm"], pairs)
    assert search(blank, configured("snip"))()["weights"] == "probe"
    randomize(blank.adapters)
    assert search(blank, configured("snip"))()["weights"] == "current"


@pytest.mark.parametrize("name", ["constant", "snip", "synflow"])
def test_degenerate_searches_are_random_and_recorded(name, checkpoints, pairs) -> None:
    """SNIP and SYNFLOW vanish where B = 0; the allocation then is a draw of the seed."""
    blank = subject(checkpoints["opt-post-norm"], pairs)
    changes = {} if name == "constant" else {"weights": "current"}
    drawn = set()
    for seed in range(8):
        row = search(blank, configured(name, **changes), seed)()
        assert (row["degenerate"], row["tied"]) == (True, 6)
        drawn.add(blank.adapters.enabled)
    assert len(drawn) > 3


def test_equal_seeds_make_equal_searches_one_after_another(here) -> None:
    first, second = (search(here, configured("constant"), seed=4) for _ in range(2))
    sequence = [first()["ranks"] for _ in range(5)]
    assert [second()["ranks"] for _ in range(5)] == sequence
    assert any(row != sequence[0] for row in sequence)


def test_the_homogeneous_budget_is_the_sum_over_sites(here) -> None:
    costs = here.adapters.unit_costs
    assert homogeneous_budget(costs, dict.fromkeys(costs, 2)) == 6 * 2 * (16 + 16)


def test_a_search_goes_on_from_its_state(here) -> None:
    first, second = (search(here, configured("constant"), seed=seed) for seed in (4, 5))
    first()
    state = json.loads(json.dumps(first.state_dict()))
    sequence = [first()["ranks"] for _ in range(3)]
    second.load_state_dict(state)
    assert [second()["ranks"] for _ in range(3)] == sequence


@dataclass(frozen=True)
class Counting(Constant):
    """A proxy that observes."""

    def observer(self) -> "Seen":
        return Seen()


@dataclass
class Seen:
    """What `Counting` has observed."""

    seen: list[int] = field(default_factory=list)

    @property
    def observed(self) -> int:
        return len(self.seen)

    def scores(self, adapters: Adapters) -> dict[Site, float]:
        return dict.fromkeys(adapters, float(self.observed))

    @contextmanager
    def observe(self, adapters: Adapters) -> Iterator[None]:
        yield
        self.seen.append(len(adapters))

    def state_dict(self) -> dict[str, list[int]]:
        return {"seen": list(self.seen)}

    def load_state_dict(self, state: dict[str, list[int]]) -> None:
        self.seen[:] = state["seen"]


def test_the_state_of_an_observer_is_kept_without_knowing_it(here) -> None:
    """Under the name of the proxy, as in the checkpoints of earlier versions."""
    one, other = search(here, Counting()), search(here, Counting())
    with one.observer.observe(here.adapters):
        pass
    kept = one.state_dict()
    assert kept["proxy"] == {"seen": [6]}
    other.load_state_dict(kept)
    assert other.observer.seen == [6]
    assert "proxy" not in search(here, configured("constant")).state_dict()
