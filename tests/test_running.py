"""Scores from training batches: the gradients that are summed, and what observing leaves alone."""

import contextlib
import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import WIRINGS, composed
from rich.console import Console
from support import (
    RANK,
    Subject,
    configured,
    covering,
    matrices,
    proxy_section,
    randomize,
    settings_of,
    space,
    subject,
    switch_on,
)
from torch import Tensor

from heterolora.adapters import LowRank
from heterolora.allocation import Pool
from heterolora.harness.config import plugins
from heterolora.harness.config.rules.compatibility import choices_fit
from heterolora.harness.loggers.progress import Display, Screen
from heterolora.harness.records.record import read_rows
from heterolora.harness.runs import execute as experiment
from heterolora.harness.runs.packs import Pack
from heterolora.kernels.unpadding import without_padding
from heterolora.losses import inputs
from heterolora.proxies import GradNorm, Sensitivity, Snip
from heterolora.proxies.running import Running
from heterolora.strategies import Search
from heterolora.training.engines import LocalEngine
from heterolora.training.engines.packed import PackedEngine
from heterolora.training.optimizer import adamw
from heterolora.training.precision import autocast_for

CPU = torch.device("cpu")
EVERYWHERE = {
    "lora": dict.fromkeys(("q", "v", "up", "down"), RANK),
    "shortcuts": dict.fromkeys(("res1", "res2", "in", "cut"), RANK),
}


def everywhere(path, pairs, renormalize: str = "always") -> Subject:
    """Sites of every kind, a third of them on and a third half on, their B random."""
    here = subject(path, pairs, searched=space(**EVERYWHERE, renormalize=renormalize))
    randomize(here.adapters)
    for index, adapter in enumerate(here.adapters.values()):
        adapter.rank = (0, 0, 0, RANK, 1)[index % 5]
    return here


def loss_of(here: Subject, batch: dict[str, Tensor], seed: int, unpadded: bool) -> Tensor:
    """The mean loss of a pass with dropout, which `seed` determines."""
    torch.manual_seed(seed)
    with without_padding() if unpadded else contextlib.nullcontext():
        output = here.adapters.model.train()(**inputs(batch))
    total, count = here.loss(output, batch)
    return total / count


def gated(adapter: LowRank, y: Tensor, x: Tensor) -> Tensor:
    """`y` and what is on, whose A and B are constants; all ranks are added, to the gradient alone.

    Written out by autograd: `f(x) - f(x)` is zero, and has the gradient of the first.
    """
    rank, whole = adapter.rank, adapter.scaling_rule(adapter.capacity)
    if rank:
        scaling = adapter.scaling_rule(rank)
        a, b = adapter.A.detach()[:rank], adapter.B.detach()[:, :rank]
        y = y + scaling * (x @ a.T) @ b.T
    own = whole * (x.detach() @ adapter.A.T) @ adapter.B.T
    return y + own - own.detach()


@pytest.mark.parametrize(
    ("family", "renormalize", "unpadded"),
    covering(WIRINGS, ["always", "enabled"], [False, True], times=2),
)
def test_the_sums_are_gradients_with_every_gate_open_for_its_own(
    family, renormalize, unpadded, checkpoints, pairs, monkeypatch
) -> None:
    here = everywhere(checkpoints[family], pairs, renormalize)
    here.adapters.model.double()
    running = Running(GradNorm().saliencies, every=1)
    batches = [here.examples.batch(range(start, start + 4)) for start in (0, 4)]
    for seed, batch in enumerate(batches):
        with running.observe(here.adapters):
            loss_of(here, batch, seed, unpadded).backward()
    assert running.observed == 2
    found = running.take(here.adapters)

    monkeypatch.setattr(LowRank, "added", gated)
    here.adapters.model.zero_grad()
    for seed, batch in enumerate(batches):
        loss_of(here, batch, seed, unpadded).backward()
    assert {adapter.rank for adapter in here.adapters.values()} == {0, 1, RANK}
    for site, adapter in here.adapters.items():
        assert adapter.A.grad.any(), site
        assert adapter.B.grad.any(), site
        torch.testing.assert_close(found[site], (adapter.A.grad, adapter.B.grad))


def engines(here: Subject, observer, autocast=contextlib.nullcontext) -> tuple[LocalEngine, ...]:
    """An engine without observers, and one of an equal model that is observed."""
    other = copy.deepcopy(here.adapters.model)
    twins = {
        id(old): new
        for old, new in zip(here.adapters.model.modules(), other.modules(), strict=True)
    }
    adapters = {site: twins[id(adapter)] for site, adapter in here.adapters.items()}
    names = {id(parameter): name for name, parameter in here.adapters.model.named_parameters()}
    found = dict(other.named_parameters())
    head = [found[names[id(parameter)]] for parameter in here.adapters.head.values()]
    copied = type(here.adapters)(other, adapters, head, here.adapters.seed, here.adapters.space)
    task = SimpleNamespace(loss=here.loss)
    return tuple(
        LocalEngine(one, task, adamw(one, 0.01), autocast, observers=observers)
        for one, observers in ((here.adapters, ()), (copied, [observer.observe]))
    )


@pytest.mark.parametrize(
    ("family", "renormalize", "precision"),
    covering(WIRINGS, ["always", "enabled"], ["fp32", "bf16"], times=2),
)
def test_observing_changes_no_bit_of_the_training(
    family, renormalize, precision, checkpoints, pairs
) -> None:
    here = everywhere(checkpoints[family], pairs, renormalize)
    observer = configured("gradnorm", source="running", observe_every=2).observer()
    plain, observed = engines(here, observer, autocast_for(precision, CPU))
    for start in (0, 8, 16):
        batch = here.examples.batch(range(start, start + 8))
        assert torch.equal(plain.step(batch), observed.step(batch))
        ours, theirs = plain.adapters.named_tensors(), observed.adapters.named_tensors()
        for name, tensor in ours.items():
            assert torch.equal(tensor, theirs[name]), name
            assert (tensor.grad is None) == (theirs[name].grad is None), name
    assert observer.observed == 2
    assert all(adapter.sums is None for adapter in observed.adapters.values())
    assert all(a.any() and b.any() for a, b in observer.sums.values())


def test_sites_below_every_one_that_is_on_are_observed(checkpoints, pairs) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    observer = configured("gradnorm", source="running").observer()
    _, engine = engines(here, observer)
    engine.adapters.apply({})
    engine.step(here.examples.batch(range(4)))
    assert min(observer.scores(engine.adapters).values()) > 0
    assert all(matrix.grad is None for matrix in matrices(engine.adapters))


def test_a_step_that_fails_leaves_no_trace(checkpoints, pairs) -> None:
    here = subject(checkpoints["bert"], pairs)
    _, engine = engines(here, configured("gradnorm", source="running").observer())
    engine.adapters.model.bert.encoder.layer[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.step(here.examples.batch(range(4)))
    assert all(adapter.sums is None for adapter in engine.adapters.values())


def test_only_training_steps_are_observed_and_only_some_of_them(checkpoints, pairs) -> None:
    here = subject(checkpoints["bert"], pairs)
    observer = configured("snip", source="running", observe_every=3).observer()
    _, engine = engines(here, observer)
    batch = here.examples.batch(range(4))
    counts = []
    for _ in range(7):
        engine.step(batch)
        counts.append(observer.observed)
        sums = copy.deepcopy(observer.sums)
        configured("snip").scores(engine.adapters, [batch], here.loss)
        with torch.no_grad():
            engine.adapters.model(**inputs(batch))
        assert all(
            torch.equal(new, old)
            for site, pair in observer.sums.items()
            for new, old in zip(pair, sums[site], strict=True)
        )
    assert counts == [1, 1, 1, 2, 2, 2, 3]


def test_scores_are_of_the_sums_and_the_weights_that_stand(checkpoints, pairs) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    proxies = [configured(name, source="running", observe_every=1) for name in ("gradnorm", "snip")]
    observers = [proxy.observer() for proxy in proxies]
    engine = LocalEngine(here.adapters, SimpleNamespace(loss=here.loss), adamw(here.adapters, 0.01))
    sampled = [configured(name) for name in ("gradnorm", "snip")]
    for proxy, sample in zip(proxies, sampled, strict=True):
        assert proxy.observes
        assert not sample.observes
        assert here.scores(proxy) == here.scores(sample)  # where nothing is observed
    expected = []
    for start in (0, 8):
        # With every site on and one observer in turn, they are the gradients that stand.
        for observer in observers:
            engine.observers = [observer.observe]
            engine.step(here.examples.batch(range(start, start + 8)))
            expected.append([matrix.grad.clone() for matrix in matrices(here.adapters)])
    for index, (proxy, observer) in enumerate(zip(proxies, observers, strict=True)):
        assert observer.observed == 2
        scores = observer.scores(here.adapters)
        sums = [a + b for a, b in zip(*expected[index::2], strict=True)]
        weights = matrices(here.adapters)
        values = [
            g.norm() if isinstance(proxy, GradNorm) else (w.detach() * g).abs().sum()
            for w, g in zip(weights, sums, strict=True)
        ]
        by_site = [float(a + b) for a, b in zip(values[::2], values[1::2], strict=True)]
        assert list(scores.values()) == pytest.approx(by_site, rel=1e-4)
        assert observer.observed == 0  # they are spent


def test_a_search_scores_what_was_observed_and_then_the_sample_again(checkpoints, pairs) -> None:
    """Would catch sums that a search leaves, or weights of a probe among observed gradients."""
    here = subject(checkpoints["opt-post-norm"], pairs)
    proxy, sample = configured("snip", source="running"), configured("snip")
    pools = [Pool(frozenset(here.adapters), here.adapters.count // 2)]
    search = Search(here.adapters, proxy, here.examples, pools, loss=here.loss)
    first = search()
    assert (first["observed"], first["weights"]) == (0, "probe")
    assert [*first["scores"].values()] == [*here.scores(sample).values()]
    engine = LocalEngine(
        here.adapters,
        SimpleNamespace(loss=here.loss),
        adamw(here.adapters, 0.01),
        observers=[search.observer.observe],
    )
    here.adapters.apply({})
    engine.step(here.examples.batch(range(4)))
    second = search()  # every B is still zero, but what was observed is not the probe's
    assert (second["observed"], second["weights"]) == (1, "current")
    assert set(second["scores"].values()) == {0.0}
    third = search()
    assert (third["observed"], third["weights"]) == (0, "probe")
    assert [*third["scores"].values()] == [*here.scores(sample).values()]


def test_the_state_is_the_sums(checkpoints, pairs) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    proxy = configured("gradnorm", source="running", observe_every=2)
    observer, other = proxy.observer(), proxy.observer()
    assert observer.state_dict() == {}
    _, engine = engines(here, observer)
    for start in (0, 8):
        engine.step(here.examples.batch(range(start, start + 8)))
    state = observer.state_dict()
    other.load_state_dict(state)
    batch = here.examples.batch(range(16, 24))
    engine.step(batch)  # observed, as the third
    assert (observer.observed, other.observed) == (2, 1)
    assert state["observed"] == 1
    kept = other.scores(engine.adapters)
    assert kept != observer.scores(engine.adapters)
    assert json.dumps({key: state[key] for key in ("steps", "observed")})
    other.load_state_dict({})
    assert other.state_dict() == {}


def test_a_proxy_is_the_same_before_and_after_a_run_observes(checkpoints, pairs) -> None:
    """Would catch state in frozen settings: equal proxies that score differently."""
    here = subject(checkpoints["bert"], pairs)
    for proxy in (Snip(source="running"), Sensitivity()):
        one, other = proxy.observer(), replace(proxy).observer()
        with one.observe(here.adapters):
            pass
        assert (one.observed, other.observed, proxy.observer().observed) == (1, 0, 0)
        assert vars(proxy) == vars(replace(proxy))


@pytest.fixture
def copies(checkpoints, pairs) -> list[LocalEngine]:
    """Two engines, the second of which is observed."""
    here = subject(checkpoints["opt-post-norm"], pairs)
    switch_on(here.adapters, here.adapters.sites[:2])
    return list(engines(here, configured("gradnorm", source="running", observe_every=1).observer()))


def test_packed_runs_are_observed_one_by_one(copies, checkpoints, pairs, monkeypatch) -> None:
    """Among others, which are made in one pass."""
    split = subject(checkpoints["opt-post-norm"], pairs).examples
    plain, observed = copies
    third = copy.deepcopy(plain)
    packs: list[int] = []
    step = PackedEngine.step

    def counted(self, batches):
        packs.append(len(batches))
        return step(self, batches)

    monkeypatch.setattr(PackedEngine, "step", counted)
    made = {id(engine): [] for engine in (plain, observed, third)}

    def training(engine):
        return SimpleNamespace(
            engine=engine,
            clock=_Clock(),
            batches=lambda: (split.batch(range(start, start + 8)) for start in (0, 8)),
            record=made[id(engine)].append,
        )

    Pack([lambda *_, e=e: training(e) for e in (plain, observed, third)], 3).train()
    assert packs == [2, 2]
    assert all(len(losses) == 2 for losses in made.values())
    assert all(a.any() or b.any() for a, b in _sums(observed).values())


class _Clock:
    def __init__(self) -> None:
        self.seconds = {"training": 0.0}

    def restart(self) -> None:
        pass

    def lap(self, what: str) -> None:
        pass


def _sums(engine: LocalEngine):
    (observe,) = engine.observers
    return observe.__self__.sums


OBSERVING = [
    (proxy_section("gradnorm", source="running"), "proxy.source=running: "),
    (proxy_section("sensitivity"), "proxy=sensitivity: "),
]
"""What observes, and how a line begins that refuses it."""


def refused(strategy: str = "dynamic", **sections) -> list[str]:
    """The problems of these sections beside a strategy."""
    chosen = plugins.find("strategy", strategy)(**settings_of("strategy")[strategy])
    return list(choices_fit({"strategy": chosen, **sections}))


def test_what_observes_sees_into_no_compiled_model(checkpoints, pairs) -> None:
    here = subject(checkpoints["bert"], pairs)
    observer = configured("gradnorm", source="running").observer()
    rest = (SimpleNamespace(loss=here.loss), adamw(here.adapters, 0.01))
    model = here.adapters.model
    with pytest.raises(ValueError, match="observers need the default forward pass"):
        LocalEngine(here.adapters, *rest, observers=[observer.observe], forward=model)
    compiled, eager = (SimpleNamespace(compile=value) for value in (True, False))
    for section, start in OBSERVING:
        (line,) = refused(proxy=section, training=compiled)
        assert line.startswith(start)
        assert "training.compile=false" in line
        assert refused(proxy=section, training=eager) == []
    for name in ("gradnorm", "constant"):
        assert refused(proxy=proxy_section(name), training=compiled) == []


@pytest.mark.parametrize(
    ("strategy", "count"),
    [("static", 1), ("dynamic", 0), ("warmup", 0), ("pruning", 0), ("homogeneous", 0)],
)
@pytest.mark.parametrize(("section", "start"), OBSERVING)
def test_steps_are_observed_for_a_later_search(section, start, strategy, count) -> None:
    lines = refused(strategy, proxy=section)
    assert len(lines) == count
    assert all(line.startswith(start) and "set strategy=dynamic" in line for line in lines)
    assert refused(strategy, proxy=proxy_section("gradnorm")) == []


def test_importance_is_of_no_training_step() -> None:
    running, sensitivity = (section for section, _ in OBSERVING)
    first, second = refused(importance={"one": running, "two": sensitivity})
    assert first.startswith("importance.one.source=running: ")
    assert second.startswith("importance.two.name=sensitivity: ")
    assert second.endswith("choose another, such as +proxy@importance.two=snip")


def test_a_run_is_the_same_up_to_its_second_search(tiny) -> None:
    found = []
    for source in ("probe", "running"):
        cfg = composed(
            *tiny,
            *(f"proxy.source={source}", "proxy.observe_every=2", "strategy.searches_per_epoch=2"),
            *("training.log_every=1", "training.epochs=1"),
        )
        done = experiment.run(cfg, Screen(Display(Console(quiet=True))))
        searches = read_rows(done.directory / "allocations.jsonl")
        losses = [r["loss"] for r in read_rows(done.directory / "metrics.jsonl") if "loss" in r]
        found.append((searches, losses))
    (probed, losses), (ran, same) = found
    assert [row["observed"] for row in probed] == [0, 0]
    assert [row["observed"] for row in ran] == [0, 2]
    assert [row["step"] for row in ran] == [0, 4]
    assert ran[0]["scores"] == probed[0]["scores"]
    assert ran[1]["scores"] != probed[1]["scores"]
    assert len(losses) == 8
    assert losses[:4] == same[:4]
