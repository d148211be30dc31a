"""Dropout on the CPU: its shares, its scale, its generators; and the streams that it draws from."""

import math
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MODELS
from support import randomize, subject
from torch import Tensor, nn
from torch.nn import functional as F

from heterolora.kernels.dropout import LEVELS, Dropout, has_dropout
from heterolora.losses import inputs
from heterolora.seeding import Stream
from heterolora.training.engines import LocalEngine
from heterolora.training.engines.packed import PackedEngine

COUNT = 2**16


def dropped(p: float, generator: torch.Generator | None = None, count: int = COUNT) -> Tensor:
    """Ones after dropout."""
    with Dropout([generator]):
        return F.dropout(torch.ones(count), p)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.77])
def test_a_share_of_p_is_dropped_and_the_rest_divided_by_what_is_left(p: float) -> None:
    y = dropped(p, seeded(1))
    share = float((y == 0).float().mean())
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / COUNT)
    (kept,) = {float(value) for value in y.unique()} - {0.0}
    exact = round(p * LEVELS) / LEVELS  # what is dropped, to the last of the 16 bits
    assert kept == pytest.approx(1 / (1 - exact), rel=1e-7)
    # No element of a word of 64 bits has more of it than another, nor do neighbors go together.
    for lane in range(4):
        own = float((y[lane::4] == 0).float().mean())
        assert abs(own - p) < 5 * math.sqrt(p * (1 - p) / (COUNT / 4))
    pairs = float(((y[1:] == 0) & (y[:-1] == 0)).float().mean())
    assert abs(pairs - p * p) < 5 * math.sqrt(p * p / COUNT)


def test_the_expectation_is_exact() -> None:
    """Over all 2^16 values of the random bits, each of which comes once."""

    class Every:
        """Bits that are all values of 16 bits, one after another."""

        def __init__(self, seed: int) -> None:
            pass

        def random_raw(self, count: int) -> np.ndarray:
            return np.arange(4 * count, dtype=np.uint16).view(np.uint64)

    for p in (0.1, 1 / 3, 0.9):
        drops = round(p * LEVELS)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(np.random, "SFC64", Every)
            y = dropped(p).double()
        assert int((y == 0).sum()) == drops
        assert float(y.mean()) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("p", "expected"), [(0.0, 1.0), (1.0, 0.0), (1e-9, 1.0)])
def test_what_drops_nothing_or_all(p: float, expected: float) -> None:
    assert torch.equal(dropped(p, count=9), torch.full((9,), expected))


def test_outside_of_training_nothing_is_dropped() -> None:
    x, module = torch.rand(64), nn.Dropout(0.5)
    with Dropout():
        assert torch.equal(F.dropout(x, 0.5, training=False), x)
        assert torch.equal(module.eval()(x), x)
        assert (module.train()(x) == 0).any()


def test_the_gradient_is_the_mask_times_the_scale() -> None:
    x = torch.randn(4096).requires_grad_()
    with Dropout([seeded(3)]):
        y = F.dropout(x, 0.25)
    weights = torch.randn(4096)
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    kept = y.detach() != 0
    assert 0 < int(kept.sum()) < 4096
    torch.testing.assert_close(gradient, torch.where(kept, weights / 0.75, 0.0))
    assert torch.equal(y.detach()[kept], (x.detach() * (1 / 0.75))[kept])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_shape_and_precision_stay(dtype: torch.dtype) -> None:
    x = torch.ones(3, 5, 7, dtype=dtype)  # no multiple of the four elements in a word
    with Dropout([seeded(0)]):
        y = F.dropout(x, 0.5)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    assert set(y.flatten().tolist()) == {0.0, 2.0}


def test_only_dropout_is_replaced_and_only_inside() -> None:
    x = torch.ones(256)
    torch.manual_seed(0)
    outside = F.dropout(x, 0.5)
    torch.manual_seed(0)
    with Dropout():
        inside = F.dropout(x, 0.5)
        torch.manual_seed(0)
        noise = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(noise, torch.rand(3))
    assert not torch.equal(inside, outside)
    torch.manual_seed(0)
    assert torch.equal(F.dropout(x, 0.5), outside)


def test_a_seed_gives_the_same_bits_again_and_draws_on() -> None:
    torch.manual_seed(5)
    first, second = dropped(0.5), dropped(0.5)
    torch.manual_seed(5)
    assert torch.equal(dropped(0.5), first)
    assert torch.equal(dropped(0.5), second)
    assert not torch.equal(first, second)
    assert torch.equal(dropped(0.5, seeded(5)), first)  # the global one is one like any other


def test_each_part_is_drawn_from_its_own_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    generators = [seeded(seed) for seed in (1, 2, 3)]
    x = torch.ones(6, 5, 3)  # two rows for each
    with Dropout(generators):
        y = F.dropout(x, 0.5)
        more = F.dropout(x, 0.5)
    assert torch.equal(torch.get_rng_state(), before)
    for index, seed in enumerate((1, 2, 3)):
        alone = seeded(seed)
        with Dropout([alone]):
            assert torch.equal(F.dropout(torch.ones(2, 5, 3), 0.5), y[2 * index : 2 * index + 2])
            assert torch.equal(F.dropout(torch.ones(2, 5, 3), 0.5), more[2 * index : 2 * index + 2])
        assert torch.equal(alone.get_state(), generators[index].get_state())
    assert not torch.equal(y[:2], y[2:4])


@pytest.mark.parametrize("family", ["opt-post-norm", "bert", "llama", "deberta"])
def test_has_dropout_is_any_of_its_probabilities(family: str) -> None:
    model = MODELS[family]()
    names = [name for name in model.config.to_dict() if "drop" in name]
    assert names
    assert has_dropout(model) == any(getattr(model.config, name) for name in names)
    for name in names:
        setattr(model.config, name, 0.0)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            assert has_dropout(model)
            module.p = 0.0
    assert not has_dropout(model)
    model.config.attention_dropout = 0.1
    assert has_dropout(model)


def test_modules_and_configurations_of_any_kind() -> None:
    assert has_dropout(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)))
    model: Any = nn.Linear(1, 1)
    model.config = SimpleNamespace()
    assert not has_dropout(model)
    model.config.to_dict = lambda: {"classifier_dropout": None, "drop_path": "no", "width": 3}
    assert not has_dropout(model)
    model.config.to_dict = lambda: {"resid_pdrop": 0.1}
    assert has_dropout(model)


def test_a_stream_goes_on_where_it_was_left() -> None:
    with Stream(5, "a"):
        whole = torch.rand(6)
    parts = Stream(5, "a")
    with parts:
        first = torch.rand(2)
    torch.rand(100)
    with parts:
        rest = torch.rand(4)
    assert torch.equal(torch.cat([first, rest]), whole)


def test_a_stream_inside_another_touches_only_its_own() -> None:
    with Stream(5, "a"):
        a = torch.rand(4)
    with Stream(5, "b"):
        b = torch.rand(4)
    outer, inner = Stream(5, "a"), Stream(5, "b")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with outer:
        start = torch.rand(2)
        with inner:
            inside = torch.rand(4)
        rest = torch.rand(2)
    assert torch.equal(torch.cat([start, rest]), a)
    assert torch.equal(inside, b)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_streams_state_is_kept_and_taken_up() -> None:
    stream = Stream(5, "a")
    with stream:
        torch.rand(3)
    state = {name: value.clone() for name, value in stream.state_dict().items()}
    assert list(state) == ["cpu"]
    with stream:
        expected = torch.rand(4)
    other = Stream(6, "b")
    other.load_state_dict(state)
    with other:
        assert torch.equal(torch.rand(4), expected)
    assert not torch.equal(other.state_dict()["cpu"], state["cpu"])  # and is no view of it


def test_an_error_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(1)
    before, stream = torch.get_rng_state(), Stream(5, "a")
    with suppress(RuntimeError), stream:
        torch.rand(3)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_that_are_computed_again_drop_the_same(checkpoints, pairs) -> None:
    """Gradient checkpointing gives the gradients of the plain model on the same stream."""
    here = subject(checkpoints["bert"], pairs)
    randomize(here.adapters)
    model = here.adapters.model
    batch = here.examples.batch(range(6))
    leaves = list(here.adapters.named_tensors().values())

    def gradients(output: Any) -> list[Tensor]:
        total, count = here.loss(output, batch)
        return [g.clone() for g in torch.autograd.grad(total / count, leaves)]

    with Stream(here.adapters.seed, "dropout"):
        plain = gradients(model.train()(**inputs(batch)))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.SGD(leaves, lr=0.0)
    engine = LocalEngine(here.adapters, SimpleNamespace(loss=here.loss), optimizer)
    engine.step(batch)
    for leaf, gradient in zip(leaves, plain, strict=True):
        torch.testing.assert_close(leaf.grad, gradient)
    with pytest.raises(ValueError, match="gradient checkpointing cannot be packed"):
        PackedEngine([engine, engine])
