"""Shortcuts: the contract of every family, Appendix D by hand, and what must go on working."""

import copy
import itertools
import random
from pathlib import Path

import pytest
import torch
from appendix_d import Adapters as Given
from appendix_d import Model
from conftest import CONF, LORA_ONLY, WIRINGS, WITH_SHORTCUTS, composed
from omegaconf import OmegaConf
from support import configured, covering, load, matrices, randomize, subject, switch_on
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    OPTForSequenceClassification,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from heterolora import architectures
from heterolora.adapters import Adapters, Space
from heterolora.allocation import Candidates, Top, make_pools, select_pools
from heterolora.architectures import FAMILIES, family_of, layers_of
from heterolora.errors import ModelError
from heterolora.sites import SHORTCUT_ROLES, Site

RANK, ALPHA = 2, {"lora": 16.0, "shortcut": 4.0}
LORA = {"q": RANK, "v": RANK}
POST_NORM = ("opt-post-norm", "bert", "roberta")
CROSS_LAYER = ("in", "cut")

every_family = pytest.mark.parametrize("family", WITH_SHORTCUTS)
each_wiring = pytest.mark.parametrize("family", WIRINGS)


def space(
    renormalize: str = "always",
    roles: tuple[str, ...] = SHORTCUT_ROLES,
    rank: int = RANK,
    lora: dict[str, int] | None = None,
) -> Space:
    return Space(
        lora=LORA if lora is None else lora,
        shortcuts=dict.fromkeys(roles, rank),
        lora_alpha=ALPHA["lora"],
        shortcut_alpha=ALPHA["shortcut"],
        scaling="alpha_over_rank",
        renormalize=renormalize,
    )


def wired(
    path: Path,
    renormalize: str,
    roles: tuple[str, ...] = SHORTCUT_ROLES,
    lora: dict[str, int] | None = None,
) -> tuple[PreTrainedModel, Adapters]:
    """The untouched model in evaluation mode, and the same one with q, v and `roles`.

    Its norms have weights of their own: those of a fresh model change nothing when repeated.
    """
    loaded = load(path)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in loaded.model.named_parameters():
        if "norm" in name.lower():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    plain = copy.deepcopy(loaded.model)
    searched = space(renormalize, roles, lora=lora)
    adapters = architectures.wire(loaded.model, loaded.family, searched, loaded.head, seed=0)
    return plain, adapters


def batch() -> dict[str, Tensor]:
    """Three rows, two of them padded."""
    ids = torch.tensor([[0, 5, 6, 7, 8, 2], [0, 9, 10, 2, 1, 1], [0, 11, 5, 3, 2, 1]])
    return {"input_ids": ids, "attention_mask": (ids != 1).long()}


def layers(model: PreTrainedModel) -> nn.Module:
    return layers_of(model, family_of(model))


@every_family
def test_sites_and_their_order(family, checkpoints) -> None:
    _, adapters = wired(checkpoints[family], "always")
    roles = ("q", "v", *SHORTCUT_ROLES)
    expected = [Site(i, r) for i in range(3) for r in roles if (i, r) != (0, "cut")]
    assert list(adapters.sites) == expected
    assert {site.kind for site in expected if site.role in "qv"} == {"lora"}
    costs = adapters.unit_costs
    grouped = "num_key_value_heads" in adapters.model.config.to_dict()
    assert costs[Site(0, "q")] == 16 + 16
    assert costs[Site(0, "v")] == 16 + (8 if grouped else 16)
    assert all(costs[site] == 32 for site in expected if site.kind == "shortcut")


@every_family
def test_state_has_the_same_names_in_every_family(family, checkpoints) -> None:
    _, adapters = wired(checkpoints[family], "always")
    names = [name for name in adapters.named_tensors() if not name.startswith("head.")]
    assert names == [f"{site}.{matrix}" for site in adapters.sites for matrix in "AB"]
    assert "layers.2.res1.A" in names
    trained = {n for n, p in adapters.model.named_parameters() if p.requires_grad}
    assert len(trained) == len(names) + len(adapters.head)


@every_family
@pytest.mark.parametrize(("roles", "off"), [(("res1", "res2"), ()), (SHORTCUT_ROLES, CROSS_LAYER)])
def test_zero_adapters_give_the_plain_logits_exactly(family, roles, off, checkpoints) -> None:
    """A cross-layer shortcut that is on is followed by its norm, so these are off if post-norm."""
    plain, adapters = wired(checkpoints[family], "enabled", roles)
    if family in POST_NORM:
        switch_on(adapters, [site for site in adapters.sites if site.role not in off])
    for training in (False, True):
        logits = []
        for model in (plain, adapters.model):
            model.train(training)
            torch.manual_seed(0)  # dropout
            logits.append(model(**batch()).logits)
        assert torch.equal(*logits), f"{training=}"


@every_family
def test_all_off_equals_absent_and_every_site_reaches_the_logits(family, checkpoints) -> None:
    plain, adapters = wired(checkpoints[family], "enabled")
    randomize(adapters)
    base = plain(**batch()).logits
    adapters.apply({})
    assert torch.equal(adapters.model(**batch()).logits, base)
    for site in adapters.sites:
        switch_on(adapters, [site])
        assert not torch.equal(adapters.model(**batch()).logits, base), site


@every_family
@pytest.mark.parametrize("roles", [SHORTCUT_ROLES, ("res1", "in"), ("cut",)])
def test_always_differs_by_the_repeated_norm_and_nothing_else(family, roles, checkpoints) -> None:
    """All off under `always` is the plain model whose norms are applied to their own outputs."""
    plain, adapters = wired(checkpoints[family], "always", roles)
    randomize(adapters)
    adapters.apply({})
    found = adapters.model(**batch()).logits
    if family in POST_NORM:
        assert not torch.allclose(found, plain(**batch()).logits)
        repeat_norms(plain, roles)
    assert torch.equal(found, plain(**batch()).logits)


def repeat_norms(plain: PreTrainedModel, roles: tuple[str, ...]) -> None:
    norms = {"opt": ("self_attn_layer_norm", "final_layer_norm")}
    bert = ("attention.output.LayerNorm", "output.LayerNorm")
    norms |= {"bert": bert, "roberta": bert}
    first, second = norms[plain.config.model_type]
    for index, layer in enumerate(layers(plain).children()):
        again = [second] if "in" in roles else []
        again += [first] if "cut" in roles and index > 0 else []
        for name in again:
            layer.get_submodule(name).register_forward_hook(
                lambda n, _, y: F.layer_norm(y, n.normalized_shape, n.weight, n.bias, n.eps)
            )


def run_by_hand(
    plain: PreTrainedModel, adapters: Adapters, renormalize: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """What comes out of the last layer by the equations, and leaves for the gradients."""
    entered: list[Tensor] = []
    first = next(layers(plain).children())
    first.register_forward_pre_hook(lambda _, args: entered.append(args[0].detach()))
    plain(**batch())
    leaves = {
        name: tensor.clone().requires_grad_()
        for name, tensor in adapters.named_tensors().items()
        if not name.startswith("head.")
    }
    given = Given(
        {site: leaves[f"{site}.A"] for site in adapters.sites},
        {site: leaves[f"{site}.B"] for site in adapters.sites},
        adapters.enabled,
        ALPHA,
    )
    weights = [layer.state_dict() for layer in layers(plain).children()]
    model = Model(plain.config, weights, given, renormalize)
    return model.layers(entered[0], batch()["attention_mask"]), leaves


BY_HAND = [*itertools.product(POST_NORM, ["always", "enabled"])]
BY_HAND += [("opt-pre-norm", "always"), ("llama", "always")]


@pytest.mark.parametrize(
    ("family", "renormalize", "dtype"),
    [
        *((*case, torch.float64) for case in BY_HAND),
        (*BY_HAND[0], torch.float32),
        *(pytest.param(*case, torch.float32, marks=pytest.mark.exhaustive) for case in BY_HAND[1:]),
    ],
)
def test_appendix_d_by_hand(family, renormalize, dtype, checkpoints) -> None:
    """Streams and the gradients of every A and B, at random weights and random allocations."""
    plain, adapters = wired(checkpoints[family], renormalize)
    randomize(adapters)
    for model in (plain, adapters.model):
        model.to(dtype).eval()
    left: list[Tensor] = []
    (stack,) = layers(adapters.model).children()
    stack.register_forward_hook(lambda _, __, output: left.append(output))
    # The library's root-mean-square norms and rotary angles are in float32.
    close = 1e-12 if dtype == torch.float64 and family != "llama" else 1e-5
    for draw in range(3):
        chosen = random.Random(draw).sample(adapters.sites, [17, 9, 4][draw])
        switch_on(adapters, chosen)
        expected, leaves = run_by_hand(plain, adapters, renormalize)
        adapters.model(**batch())
        kept = batch()["attention_mask"].bool()
        direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(left[-1][kept], expected[kept], rtol=close, atol=close)
        gradients = [
            torch.autograd.grad(
                (stream * direction)[kept].sum(), list(parameters), materialize_grads=True
            )
            for stream, parameters in (
                (left[-1], matrices(adapters)),
                (expected, leaves.values()),
            )
        ]
        for name, ours, theirs in zip(leaves, *gradients, strict=True):
            size = float(theirs.abs().max()) + 1
            assert torch.allclose(ours, theirs, rtol=0, atol=10 * close * size), name


@pytest.mark.parametrize(
    ("name", "family"), covering(["constant", "gradnorm", "snip", "synflow"], WIRINGS, times=2)
)
def test_every_proxy_scores_shortcuts_and_lora_in_one_pass(
    name, family, checkpoints, pairs
) -> None:
    here = subject(checkpoints[family], pairs, searched=space("always"))
    scores = here.scores(configured(name))
    assert list(scores) == list(here.adapters.sites)
    assert len(scores) == 17
    assert name == "constant" or len(set(scores.values())) == 17
    assert min(scores.values()) > 0


@each_wiring
def test_gradnorm_on_shortcuts_is_the_gradient_of_plain_backward_passes(
    family, checkpoints, pairs
) -> None:
    here = subject(checkpoints[family], pairs, searched=space("enabled"))
    randomize(here.adapters)
    here.adapters.apply({})
    scores = here.scores(configured("gradnorm"))
    switch_on(here.adapters, here.adapters.sites)
    for start in (0, 4, 8):
        rows = here.examples.batch(range(start, start + 4))
        labels = rows.pop("labels")
        F.cross_entropy(here.adapters.model(**rows).logits, labels).backward()
    for site, adapter in here.adapters.items():
        expected = adapter.A.grad.norm().item() + adapter.B.grad.norm().item()
        assert scores[site] == pytest.approx(expected, rel=1e-4)


@every_family
def test_a_wired_model_holds_what_the_plain_one_holds_and_its_adapters(family, checkpoints) -> None:
    plain, adapters = wired(checkpoints[family], "always")
    own = sum(a.A.nbytes + a.B.nbytes + a.mask.nbytes + a.scaling.nbytes for a in adapters.values())
    assert held(adapters.model) - own == held(plain)


def held(model: nn.Module) -> int:
    """Bytes of distinct parameters and buffers."""
    tensors = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())


@each_wiring
def test_stays_an_ordinary_module(family, checkpoints) -> None:
    _, adapters = wired(checkpoints[family], "enabled")
    randomize(adapters)
    model = adapters.model
    logits = model(**batch()).logits
    assert torch.equal(copy.deepcopy(model)(**batch()).logits, logits)
    called = functional_call(model, dict(model.state_dict()), kwargs=batch()).logits
    assert torch.equal(called, logits)
    twin = wired(checkpoints[family], "enabled")[1].model
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(**batch()).logits, logits)


@pytest.mark.parametrize("family", ["opt-post-norm", pytest.param("llama", marks=pytest.mark.slow)])
def test_compiles_once_for_all_allocations(family, checkpoints) -> None:
    """With sites at every layer of a block."""
    everywhere = dict.fromkeys(("q", "k", "v", "o", "up", "down"), RANK)
    _, adapters = wired(checkpoints[family], "enabled", lora=everywhere)
    randomize(adapters)
    graphs = []

    def count(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(adapters.model, backend=count)
    counts = []
    for enabled in (adapters.sites, adapters.sites[:3], []):
        switch_on(adapters, enabled)
        torch.testing.assert_close(compiled(**batch()).logits, adapters.model(**batch()).logits)
        counts.append(len(graphs))
    assert counts[0] > 0
    assert counts[1:] == counts[:1] * 2


@each_wiring
def test_gradient_checkpointing_changes_no_bit(family, checkpoints) -> None:
    """Be it reentrant or not."""
    _, adapters = wired(checkpoints[family], "always")
    randomize(adapters)
    model = adapters.model.train()
    model.enable_input_require_grads()
    found = []
    for reentrant in (None, False, True):
        if reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        torch.manual_seed(0)
        logits = model(**batch(), use_cache=False).logits
        model.zero_grad()
        logits.square().sum().backward()
        found.append([logits, *(matrix.grad for matrix in matrices(adapters))])
    plain, *checkpointed = found
    for other in checkpointed:
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


@each_wiring
def test_checkpointing_recomputes_every_block(family, checkpoints) -> None:
    _, adapters = wired(checkpoints[family], "always")
    model = adapters.model.train()
    calls = []
    (stack,) = layers(model).children()
    path = FAMILIES[model.config.model_type].projections["q"]
    stack.blocks[1].parts.layer.get_submodule(path).register_forward_hook(
        lambda *_: calls.append(1)
    )
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model(**batch()).logits.sum().backward()
    assert len(calls) == 2


@pytest.mark.parametrize("family", [name for name in WIRINGS if name != "gemma2"])
def test_attention_implementations_agree(family, checkpoints) -> None:
    _, adapters = wired(checkpoints[family], "always")
    randomize(adapters)
    model = adapters.model
    logits = {}
    for name in ("sdpa", "eager"):
        model.set_attn_implementation(name)
        logits[name] = model(**batch()).logits
    torch.testing.assert_close(logits["sdpa"], logits["eager"])
    model.eval()
    alone = model(**{k: v[1:2, :4] for k, v in batch().items()}).logits[0]
    torch.testing.assert_close(model(**batch()).logits[1], alone)


@each_wiring
def test_bf16_as_autocast_and_as_weights(family, checkpoints) -> None:
    _, adapters = wired(checkpoints[family], "enabled")
    randomize(adapters)
    model = adapters.model
    exact = model(**batch()).logits
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(**batch()).logits
    torch.testing.assert_close(logits.float(), exact, rtol=0.1, atol=0.1)
    logits.float().sum().backward()
    for parameter in matrices(adapters):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    logits = model.to(torch.bfloat16)(**batch()).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), exact, rtol=0.1, atol=0.1)


SMALL = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4}
SMALL |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": None}
GENERATORS = {
    "opt-post-norm": lambda: OPTForCausalLM(
        OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=8, do_layer_norm_before=False)
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**SMALL, intermediate_size=32, num_key_value_heads=2)
    ),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_generation_with_a_cache_gives_what_it_gives_without(name) -> None:
    torch.manual_seed(0)
    model = GENERATORS[name]()
    for parameter in model.parameters():
        parameter.data.mul_(5)  # else the same token wins everywhere
    family = FAMILIES[model.config.model_type]
    adapters = architectures.wire(model, family, space(), (), seed=0)
    randomize(adapters)
    rows = {name: rows[:, :3] for name, rows in batch().items()}
    made = [
        model.eval().generate(**rows, max_new_tokens=12, do_sample=False, use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert torch.equal(*made)
    assert len(made[0][0].unique()) > 3


BUDGETS = {"r2": 585_728, "r8": 2_342_912, "r32": 9_371_648}
BUDGETS |= {"l24": 2_359_296, "l96": 9_437_184, "l2_s11": 2_336_768, "l2_s47": 9_340_928}


def adapted(
    plain: OPTForSequenceClassification, lora: int, shortcut: int, roles: tuple[str, ...]
) -> Adapters:
    model = copy.deepcopy(plain)
    searched = space("always", roles, shortcut, {"q": lora, "v": lora})
    with torch.device("meta"):
        return architectures.wire(
            model, FAMILIES["opt"], searched, model.score.parameters(), seed=0
        )


@pytest.mark.parametrize("lora_only", [False, True], ids=["lora_shortcuts", "lora"])
def test_opt_350m_budgets(lora_only: bool, opt_350m: OPTForSequenceClassification) -> None:
    """The counts of the paper: those of the files under conf/rank_budget."""
    names = {name for name in BUDGETS if lora_only == (name in ("l24", "l96"))}
    group = "lora" if lora_only else "lora_shortcuts"
    searched = composed(f"search_space={group}").search_space
    found = {}
    for name in names:
        budget = OmegaConf.load(CONF / "rank_budget" / f"{name}.yaml")
        adapters = adapted(
            opt_350m, budget.lora_rank, budget.shortcut_rank, tuple(searched.shortcuts)
        )
        assert len(adapters.sites) == (48 if lora_only else 143), name
        found[name] = adapters.count
    assert found == {name: BUDGETS[name] for name in names}


@pytest.mark.parametrize(("pool", "shares"), [("combined", None), ("separated", (12, 24))])
def test_opt_350m_at_enable_rate_a_quarter(
    pool: str, shares: tuple[int, int] | None, opt_350m: OPTForSequenceClassification
) -> None:
    adapters = adapted(opt_350m, 8, 8, SHORTCUT_ROLES)
    pools = make_pools(pool, adapters.unit_costs, dict.fromkeys(adapters.sites, 2))
    assert sum(pool.budget for pool in pools) == 585_728
    rng = random.Random(0)
    scores = {site: rng.random() for site in adapters.sites}
    candidates = Candidates(scores, adapters.unit_costs, adapters.capacities)
    made = select_pools(Top(), candidates, pools, rng)
    adapters.apply(made)
    assert len(made.enabled) == 36
    assert adapters.count == made.parameters == 589_824
    if shares is not None:
        kinds = [site.kind for site in made.enabled]
        assert (kinds.count("lora"), kinds.count("shortcut")) == shares


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (
            lambda: Qwen2ForSequenceClassification(
                Qwen2Config(
                    **SMALL, intermediate_size=32, use_sliding_window=True, max_window_layers=1
                )
            ),
            "layer_types",
        ),
        (
            lambda: OPTForSequenceClassification(OPTConfig(**SMALL, ffn_dim=32, layerdrop=0.1)),
            "layerdrop=0.1",
        ),
    ],
)
def test_a_model_whose_layers_are_not_alike_is_refused(build, said) -> None:
    model = build()
    family = FAMILIES[model.config.model_type]
    with pytest.raises(ModelError, match=said) as refused:
        architectures.wire(model, family, space(), (), seed=0)
    assert "\n" not in str(refused.value)
    assert len(architectures.wire(build(), family, space(roles=()), (), seed=0).sites) == 6


@pytest.mark.parametrize("family", LORA_ONLY)
def test_a_family_without_a_place_for_them_is_refused(family, checkpoints) -> None:
    loaded = load(checkpoints[family])
    why = {
        "gemma3": "layer_types",
        "phi": "because attention and FFN run in parallel",
        "deberta": "because the encoder collects the streams",
        "modernbert": "because the model asks each of its layers",
    }
    with pytest.raises(ModelError, match=why[family]) as refused:
        architectures.wire(loaded.model, loaded.family, space(), (), seed=0)
    assert "\n" not in str(refused.value)
    assert "search_space.shortcuts=[]" in str(refused.value)
