"""The contract of every proxy, and each one's formula written out on its own."""

import contextlib
import copy
import math
from collections.abc import Iterator

import pytest
import torch
from conftest import CONF, LAYOUTS, MODELS, WIRINGS, tiny_tokenizer, write_parquet
from support import (
    RANK,
    Subject,
    configured,
    covering,
    randomize,
    settings_of,
    space,
    subject,
    switch_on,
    task,
)
from torch import nn
from torch.nn import functional as F

from heterolora import architectures
from heterolora.harness.config import plugins
from heterolora.harness.data import sources
from heterolora.proxies import Constant, GradNorm
from heterolora.proxies.base import scores_of
from heterolora.proxies.control import Control
from heterolora.proxies.needs import has_float64
from heterolora.seeding import torch_generator
from heterolora.settings import Situation

ALL = plugins.choices("proxy")
OWN = sorted(file.stem for file in (CONF / "proxy").glob("*.yaml"))
every_proxy = pytest.mark.parametrize("name", ALL)

DISTINCT = {"constant": 1, "eva": 3}
"""How many scores differ, where not all do: q and v of a layer have the same input, EVA's."""


@pytest.mark.parametrize(
    ("name", "family"), covering(ALL, LAYOUTS, times=3, also=[("synflow", "modernbert")])
)
def test_a_finite_score_for_each_site(name, family, checkpoints, pairs) -> None:
    here = subject(checkpoints[family], pairs)
    scores = here.scores(configured(name))
    assert list(scores) == list(here.adapters.sites)
    assert all(math.isfinite(score) and score >= 0 for score in scores.values())
    if name not in OWN:  # another package's may have ties
        return
    # ModernBERT's norms have no bias, so that SYNFLOW's input of ones, which they center, is zero.
    same = (name, family) == ("synflow", "modernbert")
    assert len(set(scores.values())) == (1 if same else DISTINCT.get(name, len(scores)))


def hooks_of(model: nn.Module) -> list[tuple[int, ...]]:
    """How many hooks each module has, of each kind."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [tuple(len(getattr(m, kind)) for kind in kinds) for m in model.modules()]


@every_proxy
@pytest.mark.parametrize("training", [False, True])
def test_leaves_no_trace(name, training, checkpoints, pairs) -> None:
    here = subject(checkpoints["bert"], pairs)
    randomize(here.adapters)
    model = here.adapters.model
    model.train(training)
    model.get_submodule("bert.encoder.layer.1").train(not training)
    switch_on(here.adapters, here.adapters.sites[:2])
    parameters = dict(model.named_parameters())
    some = next(name for name, p in parameters.items() if p.requires_grad)
    parameters[some].grad = torch.ones_like(parameters[some])
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    hooks = hooks_of(model)
    requires = {n: p.requires_grad for n, p in parameters.items()}
    torch.manual_seed(1)
    state = torch.get_rng_state()

    here.scores(configured(name))

    assert torch.equal(torch.get_rng_state(), state)
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    now = dict(model.named_parameters())
    assert all(now[n] is p for n, p in parameters.items())
    assert {n: p.requires_grad for n, p in now.items()} == requires
    assert [n for n, p in now.items() if p.grad is not None] == [some]
    assert torch.equal(now[some].grad, torch.ones_like(now[some]))
    assert [module.training for module in model.modules()] == modes
    assert hooks_of(model) == hooks
    assert here.adapters.enabled == frozenset(here.adapters.sites[:2])


@every_proxy
def test_leaves_no_trace_when_it_fails(name, checkpoints, pairs) -> None:
    here = subject(checkpoints["bert"], pairs)
    model = here.adapters.model.train()
    model.bert.encoder.layer[2].register_forward_pre_hook(lambda *_: 1 / 0)
    before, hooks = copy.deepcopy(model.state_dict()), hooks_of(model)
    proxy = configured(name)
    runs_nothing = isinstance(proxy, Constant | Control)
    expected = contextlib.nullcontext() if runs_nothing else pytest.raises(ZeroDivisionError)
    with expected:
        here.scores(proxy)
    assert hooks_of(model) == hooks
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(module.training for module in model.modules())


@every_proxy
def test_the_allocation_at_the_time_does_not_matter(name, checkpoints, pairs) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    randomize(here.adapters)
    everything = here.scores(configured(name))
    here.adapters.apply({})
    assert here.scores(configured(name)) == everything


IN_MICRO_BATCHES = [name for name in ALL if "micro_batch_size" in settings_of("proxy")[name]]


@pytest.mark.parametrize(("name", "family"), covering(IN_MICRO_BATCHES, WIRINGS, times=2))
def test_micro_batches_do_not_matter(name, family, checkpoints, pairs) -> None:
    here = subject(checkpoints[family], pairs)
    randomize(here.adapters)
    reference = here.scores(configured(name, micro_batch_size=4))
    for size in (1, 5, 12, 64):
        scores = here.scores(configured(name, micro_batch_size=size))
        assert scores == pytest.approx(reference, rel=1e-4)


def plain_gradients(here: Subject) -> None:
    """Ordinary backward passes: the mean loss of each of the first 3 batches of 4, summed."""
    model = here.adapters.model.eval()
    for start in (0, 4, 8):
        batch = here.examples.batch(range(start, start + 4))
        labels = batch.pop("labels")
        F.cross_entropy(model(**batch).logits, labels).backward()


def test_gradnorm_by_its_formula(checkpoints, pairs) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    randomize(here.adapters)
    scores = here.scores(configured("gradnorm"))
    plain_gradients(here)
    for site, adapter in here.adapters.items():
        expected = sum(
            sum(g.item() ** 2 for g in m.grad.flatten()) ** 0.5 for m in (adapter.A, adapter.B)
        )
        assert scores[site] == pytest.approx(expected, rel=1e-4)


def test_gradnorm_at_initialization_is_the_gradient_of_b(checkpoints, pairs) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    scores = here.scores(configured("gradnorm"))
    plain_gradients(here)
    for site, adapter in here.adapters.items():
        assert not adapter.A.grad.any()
        assert scores[site] == pytest.approx(adapter.B.grad.norm().item(), rel=1e-4)


def test_snip_is_the_gradient_of_a_mask(checkpoints, pairs) -> None:
    """The gradient by c at c = 1, with c multiplied onto A and B, by numerical differentiation."""
    here = subject(checkpoints["opt-post-norm"], pairs)
    randomize(here.adapters)
    scores = here.scores(configured("snip", weights="current"))
    model = here.adapters.model.double().eval()

    def loss() -> float:
        batch = here.examples.batch(range(12))
        labels = batch.pop("labels")
        with torch.no_grad():  # the means of three batches of 4, summed
            return F.cross_entropy(model(**batch).logits, labels, reduction="sum").item() / 4

    site = here.adapters.sites[1]
    adapter = here.adapters[site]
    expected, step = 0.0, 1e-5
    for matrix in (adapter.A.data.view(-1), adapter.B.data.view(-1)):
        for index in range(len(matrix)):
            theta = matrix[index].item()
            matrix[index] = theta * (1 + step)
            above = loss()
            matrix[index] = theta * (1 - step)
            expected += abs(above - loss()) / (2 * step)
            matrix[index] = theta
    assert scores[site] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("objective", "family"),
    covering(["loss", "output"], [name for name in MODELS if name != "gemma2"]),
)
def test_synflow_by_its_formula(objective, family, checkpoints, pairs) -> None:
    here = subject(checkpoints[family], pairs)
    randomize(here.adapters)
    scores = here.scores(configured("synflow", weights="current", objective=objective))
    model = copy.deepcopy(here.adapters.model).double().eval()
    for parameter in model.parameters():
        parameter.data.abs_()
        parameter.requires_grad_(True)
    length = max(len(row) for row in here.examples.features["input_ids"][:12])
    ones = torch.ones(1, length, model.get_input_embeddings().embedding_dim).double()
    logits = model(inputs_embeds=ones, attention_mask=torch.ones(1, length)).logits
    total = 0.0
    for label in here.examples.labels[:12]:  # each of an input of ones, and so of these logits
        loss = F.cross_entropy(logits, label[None]) / 4
        total = total + (loss if objective == "loss" else logits.sum() / 12)
    total.backward()
    modules = dict(model.named_modules())
    prefixes = {id(module): name for name, module in here.adapters.model.named_modules()}
    for site, adapter in here.adapters.items():
        copied = modules[prefixes[id(adapter)]]
        matrices = [copied.A, copied.B]
        expected = sum((m * m.grad).abs().sum().item() for m in matrices)
        # The library's root-mean-square norms compute in float32 whatever they are given.
        precision = 1e-6 if hasattr(model.config, "rms_norm_eps") else 1e-9
        assert scores[site] == pytest.approx(expected, rel=precision)


@pytest.mark.parametrize("name", ["snip", "synflow"])
def test_current_weights_score_zero_at_initialization_and_probe_does_not(
    name, checkpoints, pairs
) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    assert set(here.scores(configured(name, weights="current")).values()) == {0.0}
    assert min(here.scores(configured(name, weights="probe")).values()) > 0


def test_the_probe_is_fixed_drawn_like_a_and_of_the_runs_seed(checkpoints, pairs) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    scores = here.scores(configured("snip", weights="probe"))
    assert here.scores(configured("snip", weights="probe")) == scores
    other = subject(checkpoints["opt-post-norm"], pairs, seed=13)
    assert other.scores(configured("snip", weights="probe")) != scores
    for site, adapter in here.adapters.items():
        bound = 1 / math.sqrt(RANK)
        generator = torch_generator(0, "probe", site)
        adapter.B.data.uniform_(-bound, bound, generator=generator)
    by_hand = here.scores(configured("snip", weights="current"))
    assert by_hand == pytest.approx(scores, rel=1e-5)


@pytest.mark.parametrize("name", ["gradnorm", "snip", "synflow"])
def test_the_probe_is_for_adapters_that_are_not_trained_yet(name, checkpoints, pairs) -> None:
    """Once any B is trained, what stands is scored, and not another model with random ones."""
    here = subject(checkpoints["opt-post-norm"], pairs)
    probe, current = (configured(name, weights=weights) for weights in ("probe", "current"))
    assert probe.weights_scored(here.adapters) == "probe"
    assert current.weights_scored(here.adapters) == "current"
    assert here.scores(probe) != here.scores(current)
    here.adapters[here.adapters.sites[2]].B.data[0, 0] = 0.1
    assert probe.weights_scored(here.adapters) == "current"
    assert here.scores(probe) == here.scores(current)


def test_sites_that_are_drawn_once_stay(checkpoints, pairs) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    once, anew = configured("constant", redraw=False), configured("constant")
    assert set(here.scores(anew).values()) == {1.0}
    scores = here.scores(once)
    assert len(set(scores.values())) == len(here.adapters)
    randomize(here.adapters)
    assert here.scores(once) == scores
    other = subject(checkpoints["opt-post-norm"], pairs, seed=13)
    assert other.scores(once) != scores


def test_synflow_is_refused_before_a_device_without_float64_is_used() -> None:
    proxy = configured("synflow")
    (problem,) = proxy.problems(Situation(device=torch.device("mps")))
    start = "proxy=synflow: computes in float64, which device=mps does not support"
    assert str(problem).startswith(start)
    assert list(proxy.problems(Situation(device=torch.device("cpu")))) == []


def test_synflow_needs_float64() -> None:
    assert has_float64(torch.device("cpu"))
    assert not has_float64(torch.device("mps"))


def test_the_sample_is_the_first_examples_in_order(checkpoints, pairs) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    scores = here.scores(configured("gradnorm"))
    only = Subject(here.adapters, here.examples.subset(range(12)), here.loss)
    assert only.scores(configured("gradnorm")) == scores


def test_any_iterable_of_batches_gives_the_same_scores(checkpoints, pairs) -> None:
    """Of the 12 examples of the sample; whatever more there is is not read."""
    here = subject(checkpoints["bert"], pairs)
    scores = here.scores(configured("gradnorm"))

    def batches(size: int) -> Iterator[dict[str, torch.Tensor]]:
        for start in range(0, 12, size):
            yield here.examples.batch(range(start, min(start + size, 16)))
        pytest.fail("read on")

    for size in (3, 5, 12):
        proxy = configured("gradnorm", micro_batch_size=2)
        found = proxy.scores(here.adapters, batches(size), here.loss)
        assert found == pytest.approx(scores, rel=1e-4)
        assert proxy.scores(here.adapters, batches(size)) == found  # the default loss


def test_proxies_of_the_same_gradients_share_a_pass(checkpoints, pairs) -> None:
    """GRAD-NORM and SNIP at the weights that stand: as many passes as for one of them."""
    here = subject(checkpoints["bert"], pairs)
    randomize(here.adapters)
    proxies = {name: configured(name, weights="current") for name in ("gradnorm", "snip")}
    proxies |= {"twice": configured("gradnorm", num_batches=1), "constant": configured("constant")}
    alone = {name: here.scores(proxy) for name, proxy in proxies.items()}
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    here.adapters.model.register_forward_hook(count)
    here.scores(proxies["gradnorm"])
    of_one, passes = passes, 0
    both = {name: proxies[name] for name in ("gradnorm", "snip")}
    assert scores_of(both, here.adapters, here.examples, here.loss) == {
        name: alone[name] for name in both
    }
    assert passes == of_one
    assert scores_of(proxies, here.adapters, here.examples, here.loss) == alone


def test_a_regression_is_scored_too(checkpoints, tmp_path) -> None:
    write_parquet(
        tmp_path, train={"sentence": ["the cat", "a dog", "no bird"], "label": [0.5, 3.0, 4.5]}
    )
    config = task(num_labels=1, metrics=("pearson",), path=str(tmp_path))
    regression = config.build()
    loaded = architectures.load_pretrained(checkpoints["bert"], regression)
    rows = sources.load(config, "train")
    examples = regression.encode(rows, tiny_tokenizer(), 40, torch.device("cpu"))
    adapters = architectures.wire(
        loaded.model, loaded.family, space(lora={"v": 1}), loaded.head, seed=0
    )
    here = Subject(adapters, examples, regression.loss)
    scores = here.scores(configured("gradnorm"))
    adapters.model.eval()
    for start, end in ((0, 3),):
        batch = examples.batch(range(start, end))
        labels = batch.pop("labels")
        outputs = adapters.model(**batch).logits[:, 0]
        (sum((o - y) ** 2 for o, y in zip(outputs, labels, strict=True)) / 4).backward()
    for site, adapter in adapters.items():
        assert scores[site] == pytest.approx(adapter.B.grad.norm().item(), rel=1e-4)


class Halved(GradNorm):
    """GRAD-NORM of other gradients."""

    def gradients(self, *args):
        return {site: (a / 2, b / 2) for site, (a, b) in super().gradients(*args).items()}


def test_a_proxy_of_its_own_gradients_shares_no_pass(checkpoints, pairs) -> None:
    here = subject(checkpoints["bert"], pairs)
    settings = {"num_batches": 1, "weights": "current"}
    proxies = {"whole": GradNorm(**settings), "half": Halved(**settings)}
    found = scores_of(proxies, here.adapters, here.examples, here.loss)
    for site, score in found["whole"].items():
        assert found["half"][site] == pytest.approx(score / 2)
