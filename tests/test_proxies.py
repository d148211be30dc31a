"""The contract of every proxy, and each one's formula written out on its own."""

import contextlib
import copy
import math

import pytest
import torch
from conftest import CONF, MODELS, WIRINGS, composed, tiny_tokenizer, write_parquet
from support import RANK, checkpoint, configured, randomise, subject, task
from torch.nn import functional as F

from heterolora import architectures
from heterolora.config import TaskConfig
from heterolora.data import sources
from heterolora.data.batching import Encoded, encode
from heterolora.data.tasks import summed_loss
from heterolora.proxies import Subject
from heterolora.seeding import torch_generator

ALL = sorted(file.stem for file in (CONF / "proxy").glob("*.yaml"))
every_proxy = pytest.mark.parametrize("name", ALL)


@every_proxy
@pytest.mark.parametrize("family", MODELS)
def test_a_finite_score_for_each_site(name, family, checkpoints, pairs) -> None:
    here = subject(checkpoints[family], pairs)
    scores = configured(name).scores(here)
    assert list(scores) == list(here.inventory.sites)
    assert all(math.isfinite(score) and score >= 0 for score in scores.values())
    assert name == "constant" or len(set(scores.values())) == len(scores)


@every_proxy
@pytest.mark.parametrize("training", [False, True])
def test_leaves_no_trace(name, training, checkpoints, pairs) -> None:
    here = subject(checkpoints["bert"], pairs)
    randomise(here.inventory)
    model = here.inventory.model
    model.train(training)
    model.get_submodule("bert.encoder.layer.1").train(not training)
    here.inventory.enable_only(here.inventory.sites[:2])
    parameters = dict(model.named_parameters())
    some = next(name for name, p in parameters.items() if p.requires_grad)
    parameters[some].grad = torch.ones_like(parameters[some])
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    requires = {n: p.requires_grad for n, p in parameters.items()}
    torch.manual_seed(1)
    state = torch.get_rng_state()

    configured(name).scores(here)

    assert torch.equal(torch.get_rng_state(), state)
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    now = dict(model.named_parameters())
    assert all(now[n] is p for n, p in parameters.items())
    assert {n: p.requires_grad for n, p in now.items()} == requires
    assert [n for n, p in now.items() if p.grad is not None] == [some]
    assert torch.equal(now[some].grad, torch.ones_like(now[some]))
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert here.inventory.enabled == frozenset(here.inventory.sites[:2])


@every_proxy
def test_leaves_no_trace_when_it_fails(name, checkpoints, pairs) -> None:
    here = subject(checkpoints["bert"], pairs)
    model = here.inventory.model.train()
    model.bert.encoder.layer[2].register_forward_pre_hook(lambda *_: 1 / 0)
    before = copy.deepcopy(model.state_dict())
    expected = contextlib.nullcontext() if name == "constant" else pytest.raises(ZeroDivisionError)
    with expected:
        configured(name).scores(here)
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(module.training for module in model.modules())


@every_proxy
def test_the_allocation_at_the_time_does_not_matter(name, checkpoints, pairs) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    randomise(here.inventory)
    everything = configured(name).scores(here)
    here.inventory.enable_only([])
    assert configured(name).scores(here) == everything


@pytest.mark.parametrize(
    "name", [n for n in ALL if "micro_batch_size" in composed(f"proxy={n}").proxy]
)
@pytest.mark.parametrize("family", WIRINGS)
def test_micro_batches_do_not_matter(name, family, checkpoints, pairs) -> None:
    here = subject(checkpoints[family], pairs)
    randomise(here.inventory)
    reference = configured(name, micro_batch_size=4).scores(here)
    for size in (1, 5, 12, 64):
        scores = configured(name, micro_batch_size=size).scores(here)
        assert scores == pytest.approx(reference, rel=1e-4)


def plain_gradients(here: Subject) -> None:
    """Ordinary backward passes: the mean loss of each of the first 3 batches of 4, summed."""
    model = here.inventory.model.eval()
    for start in (0, 4, 8):
        batch = here.examples.batch(range(start, start + 4))
        labels = batch.pop("labels")
        F.cross_entropy(model(**batch).logits, labels).backward()


def test_gradnorm_by_its_formula(checkpoints, pairs) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    randomise(here.inventory)
    scores = configured("gradnorm").scores(here)
    plain_gradients(here)
    for site, adapter in here.inventory.adapters.items():
        expected = sum(
            sum(g.item() ** 2 for g in m.grad.flatten()) ** 0.5 for m in (adapter.A, adapter.B)
        )
        assert scores[site] == pytest.approx(expected, rel=1e-4)


def test_gradnorm_at_initialisation_is_the_gradient_of_b(checkpoints, pairs) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    scores = configured("gradnorm").scores(here)
    plain_gradients(here)
    for site, adapter in here.inventory.adapters.items():
        assert not adapter.A.grad.any()
        assert scores[site] == pytest.approx(adapter.B.grad.norm().item(), rel=1e-4)


def test_snip_is_the_gradient_of_a_mask(checkpoints, pairs) -> None:
    """The gradient by c at c = 1, with c multiplied onto A and B, by numerical differentiation."""
    here = subject(checkpoints["opt-post-norm"], pairs)
    randomise(here.inventory)
    scores = configured("snip", weights="current").scores(here)
    model = here.inventory.model.double().eval()

    def loss() -> float:
        total = 0.0
        for start in (0, 4, 8):
            batch = here.examples.batch(range(start, start + 4))
            labels = batch.pop("labels")
            with torch.no_grad():
                total += F.cross_entropy(model(**batch).logits, labels).item()
        return total

    site = here.inventory.sites[1]
    adapter = here.inventory.adapters[site]
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


@pytest.mark.parametrize("objective", ["loss", "output"])
@pytest.mark.parametrize("family", MODELS)
def test_synflow_by_its_formula(objective, family, checkpoints, pairs) -> None:
    here = subject(checkpoints[family], pairs)
    randomise(here.inventory)
    scores = configured("synflow", weights="current", objective=objective).scores(here)
    model = copy.deepcopy(here.inventory.model).double().eval()
    for parameter in model.parameters():
        parameter.data.abs_()
        parameter.requires_grad_(True)
    length = max(len(row) for row in here.examples.features["input_ids"][:12])
    ones = torch.ones(1, length, model.get_input_embeddings().embedding_dim).double()
    total = 0.0
    for label in here.examples.labels[:12]:
        logits = model(inputs_embeds=ones, attention_mask=torch.ones(1, length)).logits
        loss = F.cross_entropy(logits, label[None]) / 4
        total = total + (loss if objective == "loss" else logits.sum() / 12)
    total.backward()
    modules = dict(model.named_modules())
    for site, (a, b, _) in here.names().items():
        matrices = [modules[name.rpartition(".")[0]].get_parameter(name[-1]) for name in (a, b)]
        expected = sum((m * m.grad).abs().sum().item() for m in matrices)
        # The library's root-mean-square norms compute in float32 whatever they are given.
        precision = 1e-6 if hasattr(model.config, "rms_norm_eps") else 1e-9
        assert scores[site] == pytest.approx(expected, rel=precision)


@pytest.mark.parametrize("name", ["snip", "synflow"])
def test_current_weights_score_zero_at_initialisation_and_probe_does_not(
    name, checkpoints, pairs
) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    assert set(configured(name, weights="current").scores(here).values()) == {0.0}
    assert min(configured(name, weights="probe").scores(here).values()) > 0


def test_the_probe_is_fixed_drawn_like_a_and_of_the_runs_seed(checkpoints, pairs) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    scores = configured("snip", weights="probe").scores(here)
    assert configured("snip", weights="probe").scores(here) == scores
    other = subject(checkpoints["opt-post-norm"], pairs, seed=13)
    assert configured("snip", weights="probe").scores(other) != scores
    for site, adapter in here.inventory.adapters.items():
        bound = 1 / math.sqrt(RANK)
        generator = torch_generator(0, "probe", site)
        adapter.B.data.uniform_(-bound, bound, generator=generator)
    by_hand = configured("snip", weights="current").scores(here)
    assert by_hand == pytest.approx(scores, rel=1e-5)


def test_the_sample_is_the_first_examples_in_order(checkpoints, pairs) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    scores = configured("gradnorm").scores(here)
    first = Encoded(
        {name: rows[:12] for name, rows in here.examples.features.items()},
        here.examples.padding,
        here.examples.labels[:12],
        here.examples.device,
        0,
    )
    only = Subject(here.inventory, first, here.loss, 0, contextlib.nullcontext)
    assert configured("gradnorm").scores(only) == scores


def test_a_regression_is_scored_too(checkpoints, tmp_path) -> None:
    regression = TaskConfig(**{**task().model_dump(), "num_labels": 1, "metrics": ("pearson",)})
    write_parquet(
        tmp_path, train={"sentence": ["the cat", "a dog", "no bird"], "label": [0.5, 3.0, 4.5]}
    )
    regression = regression.model_copy(update={"path": str(tmp_path)})
    loaded = architectures.load(checkpoint(checkpoints["bert"]), regression, 0)
    examples = encode(
        regression, sources.load(regression, "train"), tiny_tokenizer(), 40, torch.device("cpu")
    )
    inventory = architectures.wire(loaded.model, loaded.family, {"v": 1}, 16, 0, loaded.head)
    here = Subject(inventory, examples, summed_loss(regression), 0, contextlib.nullcontext)
    scores = configured("gradnorm").scores(here)
    inventory.model.eval()
    for start, end in ((0, 3),):
        batch = examples.batch(range(start, end))
        labels = batch.pop("labels")
        outputs = inventory.model(**batch).logits[:, 0]
        (sum((o - y) ** 2 for o, y in zip(outputs, labels, strict=True)) / 4).backward()
    for site, adapter in inventory.adapters.items():
        assert scores[site] == pytest.approx(adapter.B.grad.norm().item(), rel=1e-4)
