"""Batches without padding: the same numbers for every token, and the calls that keep it."""

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ENCODERS, MODELS
from hypothesis import given
from hypothesis import strategies as st
from support import load, randomize, space
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import MistralConfig, MistralForSequenceClassification
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from heterolora import architectures
from heterolora.adapters import Adapters
from heterolora.kernels import unpadding
from heterolora.kernels.unpadding import Layout, attention, without_padding
from heterolora.sites import SHORTCUT_ROLES

ROLES = ("q", "k", "v", "o", "up", "down")
EAGER = ("gemma2", "deberta")
"""Those that have no SDPA, and so keep their padding."""
FAMILIES = [name for name in MODELS if name not in EAGER]
every_family = pytest.mark.parametrize("family", FAMILIES)


def wired(path: Path, renormalize: str | None = None) -> Adapters:
    """Random adapters everywhere, also on the shortcuts if `renormalize` says how; dropout off."""
    loaded = load(path)
    changes: dict[str, Any] = {"lora": dict.fromkeys(ROLES, 2)}
    if renormalize:
        changes |= {"shortcuts": dict.fromkeys(SHORTCUT_ROLES, 2), "renormalize": renormalize}
    adapters = architectures.wire(
        loaded.model, loaded.family, space(**changes), loaded.head, seed=0
    )
    randomize(adapters)
    adapters.model.eval()
    return adapters


def batch(left: bool = False) -> dict[str, Tensor]:
    """Four rows of 7, 3, 5 and 1 tokens, padded on one side."""
    rows = [[0, 5, 6, 7, 8, 9, 2], [0, 9, 2], [0, 11, 12, 13, 2], [4]]
    padded = [[1] * (7 - len(r)) + r if left else r + [1] * (7 - len(r)) for r in rows]
    ids = torch.tensor(padded)
    return {"input_ids": ids, "attention_mask": (ids != 1).long()}


@pytest.fixture
def layouts(monkeypatch: pytest.MonkeyPatch) -> list[Layout | None]:
    """What was made of each batch: empty where nothing was to be done."""
    made: list[Layout | None] = []
    of = Layout.of.__func__

    def noted(cls: type[Layout], mask: Tensor, runs: int = 1) -> Layout | None:
        made.append(of(cls, mask, runs))
        return made[-1]

    monkeypatch.setattr(Layout, "of", classmethod(noted))
    return made


def gradients(adapters: Adapters, logits: Tensor) -> dict[str, Tensor]:
    """By all that is trained, of a loss that every logit has another part in."""
    weights = torch.arange(1.0, logits.numel() + 1).view(logits.shape)
    named = adapters.named_tensors()
    found = torch.autograd.grad((logits * weights).sum(), list(named.values()))
    return dict(zip(named, found, strict=True))


@pytest.mark.parametrize(
    ("family", "renormalize"),
    [
        *((family, None) for family in FAMILIES),
        *((family, "always") for family in ("opt-post-norm", "opt-pre-norm", "bert", "llama")),
        *((family, "enabled") for family in ("opt-post-norm", "roberta")),
    ],
)
def test_logits_and_gradients_are_those_with_padding(
    family, renormalize, checkpoints, layouts
) -> None:
    adapters = wired(checkpoints[family], renormalize)
    # The norms of Gemma 3's queries and keys are in float32, and make gradients of up to 100 here.
    close = 1e-3 if family == "gemma3" else 1e-5
    # BERT's head reads the first cell, which on the left is padding and not the same number.
    for left in [False] if family in ENCODERS else [False, True]:
        rows = batch(left)
        layouts.clear()
        plain = adapters.model(**rows).logits
        expected = gradients(adapters, plain)
        assert layouts == []
        with without_padding():
            found = adapters.model(**rows).logits
        (layout,) = layouts
        assert layout is not None
        assert len(layout.cells) == 7 + 3 + 5 + 1
        torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-6)
        for name, gradient in gradients(adapters, found).items():
            assert gradient.any(), name
            torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=close)


@pytest.mark.parametrize("family", EAGER)
def test_an_attention_of_another_kind_keeps_its_padding(family, checkpoints, layouts) -> None:
    model = wired(checkpoints[family]).model
    plain = model(**batch()).logits
    with without_padding():
        assert torch.equal(model(**batch()).logits, plain)
    assert layouts == []


def test_layers_see_no_padding(checkpoints) -> None:
    adapters = wired(checkpoints["opt-post-norm"])
    shapes = []
    layer = adapters.model.model.decoder.layers[1]
    layer.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    with without_padding():
        adapters.model(**batch())
    adapters.model(**batch())
    assert shapes == [(1, 16, 16), (4, 7, 16)]


def test_a_sliding_window_is_one_of_places_in_the_padded_row(layouts) -> None:
    """Tokens that a window has left behind stay so, whatever padding lies between."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(
        **sizes,
        num_key_value_heads=2,
        intermediate_size=32,
        vocab_size=32,
        pad_token_id=1,
        sliding_window=2,
    )
    torch.manual_seed(0)
    model = MistralForSequenceClassification(config)
    adapters = architectures.adapt(model, {"q": 2, "v": 2})
    randomize(adapters)
    model.eval()
    for left in (False, True):
        rows = batch(left)
        plain = model(**rows).logits
        with without_padding():
            torch.testing.assert_close(model(**rows).logits, plain, rtol=1e-6, atol=1e-6)
    assert len(layouts) == 2
    model.config.sliding_window = None
    assert not torch.allclose(model(**batch(True)).logits, plain)


@every_family
def test_a_batch_without_padding_is_computed_as_ever(family, checkpoints, layouts) -> None:
    adapters = wired(checkpoints[family])
    ids = torch.tensor([[0, 5, 6, 2], [0, 9, 10, 2]])
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    plain = adapters.model(**rows).logits
    with without_padding():
        assert torch.equal(adapters.model(**rows).logits, plain)
        assert torch.equal(adapters.model(input_ids=ids).logits, adapters.model(ids).logits)
    assert layouts == [None]


@pytest.mark.parametrize("family", ["opt-pre-norm", "bert", "llama"])
@pytest.mark.parametrize("renormalize", [None, "always"])
def test_who_asks_for_more_gets_it_with_padding(family, renormalize, checkpoints, layouts) -> None:
    model = wired(checkpoints[family], renormalize).model
    asked = {"output_hidden_states": True}
    plain = model(**batch(), **asked)
    with without_padding():
        found = model(**batch(), **asked)
        assert layouts == []
        model.config.output_hidden_states = True
        by_config = model(**batch())
        model.config.output_hidden_states = False
    assert layouts == []
    for output in (found, by_config):
        assert len(output.hidden_states) == len(plain.hidden_states) >= 2
        for ours, theirs in zip(output.hidden_states, plain.hidden_states, strict=True):
            assert torch.equal(ours, theirs)
    if family != "bert":
        with without_padding():
            kept = model(**batch(), use_cache=True).past_key_values
        assert kept.get_seq_length() == 7
        assert layouts == []


@pytest.mark.parametrize("family", ["opt-post-norm", "bert", "llama"])
@pytest.mark.parametrize("renormalize", [None, "enabled"])
def test_it_stays_an_ordinary_module(family, renormalize, checkpoints, layouts) -> None:
    model = wired(checkpoints[family], renormalize).model
    with without_padding():
        logits = model(**batch()).logits
        twin = copy.deepcopy(model)
        assert torch.equal(twin(**batch()).logits, logits)
        called = functional_call(model, dict(model.state_dict()), kwargs=batch()).logits
        torch.testing.assert_close(called, logits, rtol=1e-6, atol=1e-6)
        assert len(layouts) == 3
        for parameter in twin.parameters():  # a copy whose calls are its own
            parameter.data.mul_(1.5)
        assert not torch.allclose(twin(**batch()).logits, logits)
        assert torch.equal(model(**batch()).logits, logits)
    plain = model(**batch()).logits
    layouts.clear()
    model.set_attn_implementation("eager")
    with without_padding():
        eager = model(**batch()).logits
    assert layouts == []
    torch.testing.assert_close(eager, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("renormalize", [None, "always"])
def test_checkpointed_gradients_are_those_with_padding(renormalize, checkpoints) -> None:
    """A layer that is computed again in the backward pass sees what it saw before."""
    adapters = wired(checkpoints["llama"], renormalize)
    expected = gradients(adapters, adapters.model(**batch()).logits)
    adapters.model.gradient_checkpointing_enable()
    adapters.model.train()
    with without_padding():
        logits = adapters.model(**batch()).logits
    for name, gradient in gradients(adapters, logits).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5)


def test_an_error_inside_leaves_no_layout_behind(checkpoints) -> None:
    model = wired(checkpoints["opt-post-norm"]).model
    layer = model.model.decoder.layers[2]

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    handle = layer.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError), without_padding():
        model(**batch())
    handle.remove()
    expected = model(**batch(), output_hidden_states=True).hidden_states[-1]
    decoded = model.model(**batch()).last_hidden_state  # not through the model that is followed
    assert torch.equal(decoded, expected)


def test_inside_ends_with_it_and_runs_may_be_nested() -> None:
    seen = []
    with without_padding(3):
        seen.append(unpadding._runs.get())
        with without_padding():
            seen.append(unpadding._runs.get())
        seen.append(unpadding._runs.get())
    with pytest.raises(RuntimeError), without_padding(2):
        raise RuntimeError
    assert [*seen, unpadding._runs.get()] == [3, 1, 3, 0]


@st.composite
def masks(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Any cells of a batch of `runs` times `n` rows."""
    runs, n = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    length = draw(st.integers(1, 6))
    row = st.lists(st.booleans(), min_size=length, max_size=length)
    rows = draw(st.lists(row, min_size=runs * n, max_size=runs * n))
    return torch.tensor(rows).long(), runs


@given(masks())
def test_a_layout_keeps_every_token_in_order_and_as_many_of_each_run(made) -> None:
    mask, runs = made
    layout = Layout.of(mask, runs)
    tokens = mask.reshape(runs, -1).sum(1)
    if layout is None:
        assert int(tokens.max()) in (0, mask.numel() // runs)
        return
    assert int(tokens.max()) < mask.numel() // runs
    assert torch.equal(layout.cells, layout.cells.unique())  # in order, none of them twice
    owners = layout.cells // (mask.numel() // runs)
    assert torch.equal(owners.bincount(minlength=runs), tokens.max().expand(runs))
    x = torch.arange(1.0, 2 * mask.numel() + 1).view(*mask.shape, 2)
    kept = layout.unpad(x)
    assert kept.shape == (1, runs * int(tokens.max()), 2)
    restored = layout.pad(kept)
    assert torch.equal(restored[mask.bool()], x[mask.bool()])
    cells = torch.zeros(mask.numel(), dtype=torch.bool).index_fill(0, layout.cells, True)
    assert not restored[~cells.view(mask.shape)].any()
    assert torch.equal(restored[cells.view(mask.shape)], x[cells.view(mask.shape)])
    assert torch.equal(layout.unpad(restored), kept)


@given(masks(), st.integers(1, 3))
def test_heads_are_split_and_joined_and_padding_is_of_its_own_row(made, heads) -> None:
    mask, runs = made
    layout = Layout.of(mask, runs)
    if layout is None:
        return
    (n, length), count, width = mask.shape, len(layout.cells), 2
    x = torch.rand(1, heads, count, width, dtype=torch.float64).requires_grad_()
    split = layout.split(x)
    assert split.shape == (n, heads, length, width)
    assert torch.equal(layout.join(split), x.transpose(1, 2))
    rows = layout.cells // length
    for cell in range(n * length):
        row, place = divmod(cell, length)
        own = x[0, :, layout.cells == cell if cell in layout.cells else rows == row]
        if own.numel():
            assert (split[row, :, place, None] == own).all(-1).any(-1).all()
    weights = torch.rand(split.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((split * weights).sum(), x, retain_graph=True)
    assert torch.equal(gradient.transpose(1, 2), layout.join(weights))
    (gradient,) = torch.autograd.grad((layout.join(split) * layout.join(weights)).sum(), x)
    assert torch.equal(gradient.transpose(1, 2), layout.join(weights))


class NoDropout(TorchFunctionMode):
    """Inside, `F.dropout` notes its probability, and drops nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.dropout:
            dropped, p = inspect.signature(F.dropout).bind(*args, **kwargs).args[:2]
            self.asked.append(p)
            return dropped
        return function(*args, **kwargs)


@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_attention_with_dropout_is_sdpa_but_for_the_dropout(scaling, causal, padded) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, 5, 8, generator=generator).requires_grad_()
    key, value = (torch.randn(3, 2, 5, 8, generator=generator).requires_grad_() for _ in range(2))
    module: Any = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 2, causal
    masks: list[Tensor | None] = [None]  # which is what Transformers makes where all is seen
    if padded:
        seen = (batch()["attention_mask"][:3, :5] > 0)[:, None, None].expand(3, 1, 5, 5)
        mask = seen & torch.ones(5, 5, dtype=torch.bool).tril() if causal else seen
        lowest = torch.finfo(torch.float32).min
        masks = [mask, torch.zeros(mask.shape).masked_fill(~mask, lowest)]
    plain, _ = sdpa_attention_forward(module, query, key, value, masks[0], scaling=scaling)
    weights = torch.randn(plain.shape, generator=generator)
    expected = torch.autograd.grad((plain * weights).sum(), (query, key, value))
    for mask in masks:
        with without_padding(), NoDropout() as mode:
            found, _ = attention(module, query, key, value, mask, 0.1, scaling)
        assert mode.asked == [0.1]
        torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-6)
        ours = torch.autograd.grad((found * weights).sum(), (query, key, value))
        for one, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_row_of_padding_that_sees_nothing_has_finite_gradients() -> None:
    query, key, value = (torch.randn(1, 2, 3, 4).requires_grad_() for _ in range(3))
    mask = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    mask[..., 0, 0] = True
    with without_padding():
        out, _ = attention(torch.nn.Module(), query, key, value, mask, 0.5)
    for gradient in torch.autograd.grad(out.sum(), (query, key, value)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("family", ["opt-post-norm", "bert", "llama"])
def test_a_training_step_with_dropout_drops_what_the_configuration_says(
    family, checkpoints, monkeypatch
) -> None:
    """All of it through `F.dropout`: the weights of the attention too."""
    loaded = load(checkpoints[family])
    for layer in architectures.layers_of(loaded.model, loaded.family):
        for module in layer.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.25
            if type(module).__name__ == "OPTAttention":
                module.dropout = 0.25
            if type(module).__name__ == "BertSelfAttention":
                module.dropout.p = 0.25
    adapters = architectures.wire(loaded.model, loaded.family, space(), loaded.head, seed=0)
    plain = adapters.model.eval()(**batch()).logits
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *_, **__: pytest.fail("slower on a CPU")
    )
    with without_padding(), NoDropout() as mode:
        found = adapters.model.train()(**batch()).logits
    assert mode.asked.count(0.25) == 3
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-6)
