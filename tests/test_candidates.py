"""The formulas of the candidate scores, each written out on its own, and runs by them."""

import weakref
from pathlib import Path

import pytest
import torch
from conftest import WIRINGS, CommandLine, composed, edited, problems
from peft import LoraConfig, get_peft_model
from support import RANK, Subject, configured, matrices, randomize, space, subject
from test_proxies import plain_gradients
from test_running import engines
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification

import heterolora as hl
from heterolora.adapters import LoRALinear, LoRARows
from heterolora.adapters.shortcut import Residual, Shortcut
from heterolora.allocation import Pool
from heterolora.errors import ModelError
from heterolora.harness.records.record import read_rows
from heterolora.integrations.sites import PeftSites
from heterolora.proxies import Role
from heterolora.strategies import Search
from heterolora.training.engines import LocalEngine

COUNT = 12  # 3 batches of 4


def trained(path: Path, pairs: Path, **searched: object) -> Subject:
    """A subject whose B are not zero."""
    here = subject(path, pairs, searched=space(**searched))
    randomize(here.adapters)
    return here


def example(here: Subject, index: int) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs and label of one example, without padding."""
    batch = here.examples.batch([index])
    return batch, batch.pop("labels")


# ---- gradnorm_l1, fisher


def test_gradnorm_l1_by_its_formula(checkpoints, pairs) -> None:
    here = trained(checkpoints["opt-post-norm"], pairs)
    scores = here.scores(configured("gradnorm_l1"))
    plain_gradients(here)
    for site, adapter in here.adapters.items():
        expected = sum(abs(g) for m in (adapter.A, adapter.B) for g in m.grad.flatten().tolist())
        assert scores[site] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("family", WIRINGS)
def test_fisher_squares_the_gradient_of_each_example(family, checkpoints, pairs) -> None:
    here = trained(checkpoints[family], pairs)
    scores = here.scores(configured("fisher"))
    model = here.adapters.model.eval()
    expected = dict.fromkeys(here.adapters, 0.0)
    for index in range(COUNT):
        inputs, label = example(here, index)
        model.zero_grad()
        F.cross_entropy(model(**inputs).logits, label).backward()
        for site, adapter in here.adapters.items():
            squares = [m.grad.double().square().sum().item() for m in (adapter.A, adapter.B)]
            expected[site] += sum(squares)
    assert scores == pytest.approx(expected, rel=1e-4)


def test_fisher_is_of_examples_however_they_are_batched(checkpoints, pairs) -> None:
    here = trained(checkpoints["bert"], pairs)
    proxy = configured("fisher")
    scores = here.scores(proxy)
    for size in (1, 5, 12, 20):
        batches = here.examples.in_order(size, 20)
        assert proxy.scores(here.adapters, batches, here.loss) == pytest.approx(scores, rel=1e-4)


# ---- sensitivity


def steps(here: Subject, engine: LocalEngine, count: int) -> list[list[Tensor]]:
    """|theta gradient| of A and B of every site, at each of `count` steps of an engine."""
    found = []
    for step in range(count):
        before = [m.detach().clone() for m in matrices(engine.adapters)]
        engine.step(here.examples.batch(range(8 * (step % 5), 8 * (step % 5) + 8)))
        # With every site on, they are the gradients that stand.
        gradients = [m.grad for m in matrices(engine.adapters)]
        found.append([(w * g).abs().double() for w, g in zip(before, gradients, strict=True)])
    return found


@pytest.mark.parametrize("every", [1, 3])
def test_sensitivity_is_adaloras_smoothed_product(every, checkpoints, pairs) -> None:
    here = trained(checkpoints["opt-post-norm"], pairs)
    settings = {"beta1": 0.8, "beta2": 0.6, "observe_every": every}
    observer = configured("sensitivity", **settings).observer()
    _, engine = engines(here, observer)
    seen = steps(here, engine, 7)[::every]
    scores = []
    for entries in zip(*seen, strict=True):  # of one matrix, over the steps
        mean = spread = torch.zeros_like(entries[0])
        for now in entries:
            mean = 0.8 * mean + 0.2 * now
            spread = 0.6 * spread + 0.4 * (now - mean).abs()
        scores.append((mean * spread).sum().item())
    expected = [a + b for a, b in zip(scores[::2], scores[1::2], strict=True)]
    assert observer.observed == len(seen)
    found = observer.scores(engine.adapters)
    assert list(found.values()) == pytest.approx(expected, rel=1e-4)
    assert observer.scores(engine.adapters) == found  # a search spends nothing


def test_sensitivity_before_the_first_step_is_snip(checkpoints, pairs) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    proxy, snip = configured("sensitivity"), configured("snip")
    assert proxy.observes
    assert (proxy.observer().observed, proxy.weights_scored(here.adapters)) == (0, "probe")
    assert here.scores(proxy) == here.scores(snip)
    assert proxy.observer().state_dict() == {}


def test_sensitivity_changes_no_bit_of_the_training(checkpoints, pairs) -> None:
    here = trained(checkpoints["llama"], pairs)
    for index, adapter in enumerate(here.adapters.values()):
        adapter.rank = (0, 1, RANK)[index % 3]
    observer = configured("sensitivity").observer()
    plain, observed = engines(here, observer)
    for start in range(0, 40, 8):
        batch = here.examples.batch(range(start, start + 8))
        assert torch.equal(plain.step(batch), observed.step(batch))
    ours, theirs = plain.adapters.named_tensors(), observed.adapters.named_tensors()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert observer.observed == 5
    assert min(observer.scores(observed.adapters).values()) > 0  # of what is off as well


def test_sensitivity_goes_on_from_its_state_to_the_bit(checkpoints, pairs) -> None:
    here = trained(checkpoints["opt-post-norm"], pairs)
    proxy = configured("sensitivity", observe_every=2)
    observer, other = proxy.observer(), proxy.observer()
    (_, engine), (_, again) = engines(here, observer), engines(here, proxy.observer())
    for one in (engine, again):
        steps(here, one, 3)
    other.load_state_dict(observer.state_dict())
    again.observers = [other.observe]
    for one in (engine, again):
        steps(here, one, 4)
    assert other.observed == observer.observed == 4
    assert other.scores(again.adapters) == observer.scores(engine.adapters)
    other.load_state_dict({})
    assert other.state_dict() == {}


def test_what_observes_is_refused_where_no_step_can_be(checkpoints) -> None:
    with pytest.raises(ValueError, match=r"^proxy='sensitivity': .* steps cannot be observed"):
        hl.HeteroLoRACallback(proxy="sensitivity")
    model = AutoModelForSequenceClassification.from_pretrained(checkpoints["bert"])
    for proxy in ("sensitivity", hl.proxies.GradNorm(source="running")):
        with pytest.raises(ValueError, match="scores training steps, but there are none here"):
            hl.suggest(model, [], proxy=proxy)


# ---- gradsvd, gora


def dense_gradients(here: Subject) -> dict[hl.Site, tuple[Tensor, Tensor]]:
    """The weight beside every site, a layer's or some rows of it, and the loss's gradient by it."""
    layers = [m for m in here.adapters.model.modules() if isinstance(m, LoRALinear | LoRARows)]
    for layer in layers:
        layer.linear.weight.requires_grad_()
    plain_gradients(here)
    by_adapter = {
        id(layer.adapter): tensor[layer.start : layer.end]
        if isinstance(layer, LoRARows)
        else tensor
        for layer in layers
        for tensor in [torch.stack([layer.linear.weight.detach(), layer.linear.weight.grad], dim=1)]
    }
    found = {site: by_adapter[id(adapter)] for site, adapter in here.adapters.items()}
    return {site: (both[:, 0], both[:, 1]) for site, both in found.items()}


EVERY_ROLE = dict.fromkeys(("q", "v", "up", "down"), RANK)


@pytest.mark.parametrize("family", WIRINGS)
def test_gradsvd_is_the_spectrum_of_the_dense_gradient(family, checkpoints, pairs) -> None:
    here = trained(checkpoints[family], pairs, lora=EVERY_ROLE)
    proxy = configured("gradsvd")
    gains = proxy.gains(here.adapters, proxy.sample(here.examples), here.loss)
    scores = here.scores(proxy)
    for site, (weight, gradient) in dense_gradients(here).items():
        adapter = here.adapters[site]
        scaling = 16 / RANK
        expected = (scaling * torch.linalg.svdvals(gradient)).square()
        assert len(gains[site]) == min(weight.shape)
        largest = expected[0].item()
        assert gains[site] == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-6 * largest)
        assert gains[site] == sorted(gains[site], reverse=True)
        assert scores[site] == sum(gains[site][: adapter.capacity])


@pytest.mark.parametrize(("name", "function"), [("gradsvd", "svdvals"), ("eva", "eigvalsh")])
def test_the_matrices_of_a_spectrum_are_freed(
    name, function, checkpoints, pairs, monkeypatch
) -> None:
    here = subject(checkpoints["bert"], pairs)
    seen = []
    spectrum = getattr(torch.linalg, function)

    def watched(matrix):
        seen.append(weakref.ref(matrix))
        return spectrum(matrix)

    monkeypatch.setattr(torch.linalg, function, watched)
    here.scores(configured(name))
    assert len(seen) == len(here.adapters)
    assert all(matrix() is None for matrix in seen)


@pytest.mark.parametrize("family", WIRINGS)
@pytest.mark.parametrize("random", [False, True])
def test_gora_is_the_mean_of_weight_times_gradient(random, family, checkpoints, pairs) -> None:
    here = subject(checkpoints[family], pairs, searched=space(lora=EVERY_ROLE))
    if random:
        randomize(here.adapters)
    scores = here.scores(configured("gora"))
    for site, (weight, gradient) in dense_gradients(here).items():
        adapter = here.adapters[site]
        whole = weight + 16 / RANK * adapter.B.detach() @ adapter.A.detach()
        expected = (whole * gradient).abs().double().mean().item()
        assert scores[site] == pytest.approx(expected, rel=1e-4)


def test_gora_needs_a_weight(checkpoints, pairs) -> None:
    searched = space(shortcuts={"res1": RANK})
    here = subject(checkpoints["opt-post-norm"], pairs, searched=searched)
    with pytest.raises(ModelError, match=r"shortcut layers\.0\.res1 has none; set shortcuts=\[\]"):
        here.scores(configured("gora"))
    here = subject(checkpoints["opt-post-norm"], pairs)
    layer = here.adapters.linears[here.adapters.sites[0]]
    layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match=r"layers\.0\.q is quantized \(torch\.int8\)"):
        here.scores(configured("gora"))


def test_gora_on_shortcuts_is_refused_before_weights_load(checkpoints) -> None:
    shared = (
        f"model.path={checkpoints['opt-post-norm']}",
        *("task=rte", "device=cpu", "tracking=local", "search_space=lora_shortcuts"),
    )
    (line,) = problems(composed(*shared, "proxy=gora"))
    assert line.startswith("proxy=gora: ")
    assert line.endswith("set search_space=lora")
    never = (*shared, "strategy=homogeneous")
    (line,) = problems(composed(*never, "proxy=gora", "+proxy@importance.mine=gora"))
    assert line.startswith("importance.mine.name=gora: ")


# ---- eva


def tokens_of(here: Subject) -> dict[hl.Site, Tensor]:
    """The inputs of every site (tokens, d), by passes of single examples, which have no padding."""
    owners = {}
    for module in here.adapters.model.modules():
        if isinstance(module, LoRALinear | LoRARows | Residual | Shortcut):
            owners[id(module.adapter)] = module
    found: dict[hl.Site, list[Tensor]] = {site: [] for site in here.adapters}
    handles = []
    for site, adapter in here.adapters.items():
        owner = owners[id(adapter)]
        place = 1 if isinstance(owner, Shortcut) else 0  # which joins s(h) to a stream x
        handles.append(
            owner.register_forward_pre_hook(
                lambda _, args, site=site, place=place: found[site].append(
                    args[place].flatten(0, -2)
                )
            )
        )
    with torch.no_grad():
        for index in range(COUNT):
            here.adapters.model.eval()(**example(here, index)[0])
    for handle in handles:
        handle.remove()
    return {site: torch.cat(rows).double() for site, rows in found.items()}


@pytest.mark.parametrize(
    ("family", "shortcuts"),
    [
        *((family, ("res1", "res2", "in", "cut")) for family in WIRINGS),
        (WIRINGS[0], ()),
        *(pytest.param(family, (), marks=pytest.mark.exhaustive) for family in WIRINGS[1:]),
    ],
)
def test_eva_is_the_explained_share_of_the_inputs(shortcuts, family, checkpoints, pairs) -> None:
    here = trained(
        checkpoints[family], pairs, lora=EVERY_ROLE, shortcuts=dict.fromkeys(shortcuts, RANK)
    )
    proxy = configured("eva")
    sample = [
        {name: tensor for name, tensor in batch.items() if name != "labels"}
        for batch in proxy.sample(here.examples)
    ]
    assert not proxy.needs_labels
    gains, scores = proxy.gains(here.adapters, sample), here.scores(proxy)
    inputs = tokens_of(here)
    assert len(inputs) == len(here.adapters) > 3 * len(EVERY_ROLE) - 1
    for site, rows in inputs.items():
        values = torch.linalg.svdvals(rows).square()
        expected = (values / values.sum()).tolist()
        assert gains[site][: len(expected)] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert sum(gains[site]) == pytest.approx(1)
        assert gains[site] == sorted(gains[site], reverse=True)
        assert scores[site] == sum(gains[site][:RANK])


# ---- on a model of PEFT


def test_weights_and_inputs_of_a_model_of_peft(checkpoints, pairs) -> None:
    """Its adapters are of another class, and have the same scores."""
    here = subject(checkpoints["bert"], pairs)
    base = AutoModelForSequenceClassification.from_pretrained(checkpoints["bert"])
    base.classifier.load_state_dict(here.adapters.model.classifier.state_dict())
    settings = LoraConfig(r=RANK, lora_alpha=16, target_modules=["query", "value"])
    model = get_peft_model(base, settings)
    sites = PeftSites(model, torch.optim.SGD(model.parameters()))
    randomize(here.adapters)
    for site, adapter in here.adapters.items():
        sites[site].A.data.copy_(adapter.A)
        sites[site].B.data.copy_(adapter.B)
    for name in ("gora", "eva", "gradsvd", "fisher"):
        proxy = configured(name)
        found = proxy.scores(sites, proxy.sample(here.examples), here.loss)
        assert found == pytest.approx(here.scores(proxy), rel=1e-4), name


# ---- controls


def ranked(scores: dict[hl.Site, float]) -> list[hl.Site]:
    return sorted(scores, key=lambda site: -scores[site])


def test_controls_know_places_alone(checkpoints, pairs) -> None:
    here = subject(checkpoints["opt-post-norm"], pairs)
    by_depth = ranked(here.scores(configured("depth")))
    assert [site.layer for site in by_depth] == [2, 2, 1, 1, 0, 0]
    spaced = ranked(here.scores(configured("spaced", every=2)))
    assert {site.layer for site in spaced[:2]} == {1}
    by_role = here.scores(configured("role", roles=["q"]))
    assert {site.role for site in ranked(by_role)[:3]} == {"q"}
    for site, score in by_role.items():
        place = float(site.role == "q")
        assert place <= score < place + 2**-20


@pytest.mark.parametrize("name", ["depth", "spaced", "role"])
def test_a_control_chooses_once(name, checkpoints, pairs) -> None:
    """Among sites of one place at random, but the same ones at every search of a run."""
    here = subject(checkpoints["opt-post-norm"], pairs)
    proxy, orders = configured(name), set()
    for seed in range(6):
        here.adapters.seed = seed
        budget = here.adapters.count // 4
        search = Search(
            here.adapters, proxy, here.examples, [Pool(frozenset(here.adapters), budget)]
        )
        first = search()
        assert not proxy.needs_labels
        assert all(search()["ranks"] == first["ranks"] for _ in range(5))
        assert (first["tied"], first["degenerate"]) == (0, False)
        orders.add(tuple(ranked(here.scores(proxy))))
        here.adapters.apply(here.adapters.capacities)
    assert len(orders) > 2


def test_roles_that_there_are_not() -> None:
    for roles in ((), ("q", "nope")):
        with pytest.raises(ValueError, match="must be one or more of q, k, v"):
            Role(roles=roles)


@pytest.mark.parametrize(
    ("changes", "start", "said"),
    [
        (["proxy=role", "proxy.roles=[o]"], "proxy=role: gives all sites the same score", "q, v"),
        (
            ["proxy=role", "proxy.roles=[q,v]"],
            "proxy=role: gives all sites the same score",
            "constant",
        ),
        (["proxy=spaced", "proxy.every=9"], "proxy=spaced: gives all", "(layers 0 to 2, "),
        (["proxy=spaced", "proxy.every=1"], "proxy.every=1: ", "greater than or equal to 2"),
        (["proxy=role", "selection.normalize=role"], "proxy=role: ", "selection.normalize=none"),
        (["proxy=role", "proxy.roles=[w]"], "proxy.roles.0=w: ", "[v]"),
    ],
)
def test_a_control_that_controls_nothing_is_refused(changes, start, said, checkpoints) -> None:
    path = f"model.path={checkpoints['opt-post-norm']}"
    shared = ("task=rte", "device=cpu", "tracking=local", "search_space=lora", path)
    proxy, change = changes
    (line,) = problems(edited(composed(*shared, proxy), change))
    assert line.startswith(start)
    assert said in line


# ---- runs


@pytest.mark.parametrize("name", ["gradsvd", "eva"])
def test_a_run_by_gains(name, tiny, command_line: CommandLine, tmp_path) -> None:
    overrides = (f"proxy={name}", "selection=waterfill", "strategy=static", "training.epochs=1")
    done = command_line(*tiny, *overrides)
    assert done.code == 0, done.err
    (log,) = (tmp_path / "outputs").rglob("allocations.jsonl")
    (row,) = read_rows(log)
    assert (row["proxy"]["name"], row["selection"]["name"]) == (name, "waterfill")
    assert row["parameters"] == 6 * 2 * (16 + 16)  # rank 2 at six sites
    by_score = sorted(row["ranks"], key=row["scores"].get)
    assert row["ranks"][by_score[-1]] >= row["ranks"][by_score[0]]


@pytest.mark.parametrize("name", ["depth", "role"])
def test_a_run_by_a_control(name, tiny, command_line: CommandLine, tmp_path) -> None:
    overrides = [o for o in tiny if not o.startswith("proxy.")]
    done = command_line(*overrides, f"proxy={name}", "training.epochs=1")
    assert done.code == 0, done.err
    (log,) = (tmp_path / "outputs").rglob("allocations.jsonl")
    rows = read_rows(log)
    assert len(rows) > 2
    assert all(row["ranks"] == rows[0]["ranks"] for row in rows)
