"""LoRA by its formula, and off means off."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from heterolora.adapters import Adapters, LoRALinear, LowRank, Scaling
from heterolora.allocation import Allocation
from heterolora.seeding import torch_generator
from heterolora.sites import Site
from heterolora.training.optimizer import adamw


def randomized(adapter: LowRank, seed: int = 0) -> LowRank:
    """With a B that is not zero."""
    nn.init.normal_(adapter.B, generator=torch.Generator().manual_seed(seed))
    return adapter


class TwoLayers(nn.Module):
    """Two adapted linear layers, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = LoRALinear(nn.Linear(4, 6), randomized(new(4, 6)))
        self.second = LoRALinear(nn.Linear(6, 5), randomized(new(6, 5)))
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x).tanh()).tanh())


def new(d_in: int, d_out: int, rank: int = 2, alpha: float = 16) -> LowRank:
    scaling = Scaling("alpha_over_rank", alpha, budget_rank=rank)
    return LowRank(d_in, d_out, rank, scaling, torch_generator(0, "test", d_in, d_out))


def optimizer_of(stock: Adapters) -> torch.optim.AdamW:
    return adamw(stock, learning_rate=0.1, weight_decay=0.5, betas=(0.9, 0.99))


def switch_on(stock: Adapters, *sites: Site) -> None:
    stock.apply({site: stock[site].capacity for site in sites})


FIRST, SECOND = Site(0, "q"), Site(1, "q")


def adapted() -> Adapters:
    model = TwoLayers()
    adapters = {FIRST: model.first.adapter, SECOND: model.second.adapter}
    return Adapters(model, adapters, model.head.parameters())


@st.composite
def maps(draw: st.DrawFn) -> tuple[LowRank, int]:
    """A low-rank map, not zero, and a rank within its capacity."""
    capacity = draw(st.integers(1, 6))
    d_in, d_out = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    adapter = randomized(new(d_in, d_out, capacity, draw(st.sampled_from([1.0, 4.0, 16.0]))))
    return adapter.double(), draw(st.integers(0, capacity))


def by_hand(adapter: LowRank, rank: int, x: torch.Tensor) -> torch.Tensor:
    """`alpha / r sum_i B_i A_i x` over the ranks that are on."""
    out = torch.zeros(*x.shape[:-1], adapter.B.shape[0], dtype=x.dtype)
    for i in range(rank):
        weight = torch.outer(adapter.B[:, i], adapter.A[i])
        out += adapter.scaling_rule.alpha / rank * torch.einsum("oi,bti->bto", weight, x)
    return out


@given(maps())
def test_lora_is_its_equation_at_every_rank(case: tuple[LowRank, int]) -> None:
    adapter, rank = case
    base = nn.Linear(adapter.A.shape[1], adapter.B.shape[0]).double()
    layer = LoRALinear(base, adapter)
    adapter.rank = rank
    x = torch.randn(3, 7, base.in_features, dtype=torch.float64)
    expected = base(x) + by_hand(adapter, rank, x)
    torch.testing.assert_close(layer(x), expected)
    if rank == 0:
        assert torch.equal(layer(x), base(x))
    # The same with masks from outside, which code must not look into.
    tensors = {
        "adapter.mask": adapter.mask.clone(),
        "adapter.scaling": torch.tensor(adapter.scaling.item(), dtype=torch.float64),
    }
    torch.testing.assert_close(functional_call(layer, tensors, (x,)), expected)


def test_a_mask_from_outside_decides_in_place_of_the_modules_own() -> None:
    adapter = randomized(new(3, 4))
    x = torch.randn(5, 3)
    on = adapter(x)
    adapter.rank = 0
    assert not adapter(x).any()
    tensors = {"mask": torch.ones(2), "scaling": torch.tensor(16 / 2)}
    torch.testing.assert_close(functional_call(adapter, tensors, (x,)), on)
    assert not adapter(x).any()


def test_the_rank_goes_along_with_state_copies_and_moves() -> None:
    adapter, fresh = randomized(new(3, 4)), new(3, 4)
    adapter.rank = 1
    x = torch.randn(5, 3)
    fresh.load_state_dict(adapter.state_dict())
    for same in (fresh, copy.deepcopy(adapter), copy.deepcopy(adapter).to(torch.float32)):
        assert same.rank == same.known_rank == 1
        assert torch.equal(same(x), adapter(x))
    doubled = copy.deepcopy(adapter).double()
    assert doubled.known_rank == 1
    torch.testing.assert_close(doubled(x.double()).float(), adapter(x))
    adapter.rank = 2
    assert fresh.rank == 1
    holed = {**adapter.state_dict(), "mask": torch.tensor([0.0, 1.0])}
    with pytest.raises(RuntimeError, match="ones followed by zeros"):
        fresh.load_state_dict(holed)
    with pytest.raises(ValueError, match="rank=3: must be from 0 to the capacity, 2"):
        adapter.rank = 3


@pytest.mark.parametrize(
    ("rule", "factors"),
    [
        ("alpha_over_rank", {8: 2.0, 4: 4.0, 2: 8.0}),
        ("alpha_over_budget_rank", {8: 8.0, 4: 8.0, 2: 8.0}),
        ("rslora", {8: 16 / math.sqrt(8), 4: 8.0, 2: 16 / math.sqrt(2)}),
    ],
)
def test_scaling_follows_the_rank_that_is_on(rule: str, factors: dict[int, float]) -> None:
    """Alpha = 16, a budget of rank 2, a capacity of 8."""
    scaling = Scaling(rule, 16, budget_rank=2)
    adapter = LowRank(3, 4, 8, scaling, torch.Generator())
    assert adapter.scaling.item() == pytest.approx(factors[8])
    for rank, factor in factors.items():
        adapter.rank = rank
        assert adapter.scaling.item() == pytest.approx(factor)
    with pytest.raises(ValueError, match=r"scaling='alpha': must be one of alpha_over_rank, "):
        Scaling("alpha", 16, 2)


def test_what_is_off_is_not_computed() -> None:
    """No operation at all at a site that is off, and at one that is on none beyond its rank."""
    stock = adapted()
    stock.apply({SECOND: 1})
    shapes: list[torch.Size] = []

    class Shapes(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is nn.functional.linear:
                shapes.append(args[1].shape)
            elif function is torch.addmm:
                shapes.append(args[2].T.shape)
            return function(*args, **(kwargs or {}))

    with Shapes():
        stock.model(torch.randn(5, 4))
    assert shapes == [(6, 4), (5, 6), (1, 6), (5, 1), (2, 5)]


def test_initialization_is_loras() -> None:
    adapter = new(64, 32, rank=50)
    bound = 1 / math.sqrt(64)  # sqrt(6 / ((1 + 5) fan_in))
    assert adapter.A.abs().max() <= bound
    assert adapter.A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert not adapter.B.any()
    assert adapter.mask.tolist() == [1] * 50
    assert adapter.rank == 50


def test_counts() -> None:
    stock = adapted()
    assert stock.unit_costs == {FIRST: 4 + 6, SECOND: 6 + 5}
    assert stock.capacities == stock.ranks == {FIRST: 2, SECOND: 2}
    assert stock.head_count == 5 * 2 + 2
    assert stock.count == 42
    stock.apply({SECOND: 1})
    assert stock.ranks == {FIRST: 0, SECOND: 1}
    assert stock.enabled == {SECOND}
    assert stock.count == 11


def test_ranks_that_cannot_be_applied_change_nothing() -> None:
    stock = adapted()
    with pytest.raises(ValueError, match=r"layers\.7\.q: the model has no such site"):
        stock.apply({FIRST: 1, Site(7, "q"): 1})
    with pytest.raises(ValueError, match=r"layers\.1\.q: rank 3 is not from 0 to its capacity, 2"):
        stock.apply({FIRST: 1, SECOND: 3})
    assert stock.ranks == {FIRST: 2, SECOND: 2}
    stock.apply(Allocation({FIRST: 1, SECOND: 0}, parameters=10))
    assert stock.ranks == {FIRST: 1, SECOND: 0}


def test_only_adapters_and_head_are_trainable() -> None:
    stock = adapted()
    trainable = {name for name, p in stock.model.named_parameters() if p.requires_grad}
    adapters = {f"{layer}.adapter.{m}" for layer in ("first", "second") for m in "AB"}
    assert trainable == adapters | {"head.weight", "head.bias"}


def descend(stock: Adapters, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for seed in range(steps):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad(set_to_none=True)
        stock.model(x).square().sum().backward()
        optimizer.step()


def snapshot(optimizer: torch.optim.Optimizer, adapter: LowRank) -> list[torch.Tensor]:
    state = [adapter.A, adapter.B]
    for matrix in (adapter.A, adapter.B):
        state += [value for value in optimizer.state[matrix].values() if torch.is_tensor(value)]
    return [tensor.detach().clone() for tensor in state]


def test_off_leaves_weights_and_optimizer_state_bit_for_bit() -> None:
    stock = adapted()
    optimizer = optimizer_of(stock)
    descend(stock, optimizer, 3)
    before = snapshot(optimizer, stock[FIRST])
    other = snapshot(optimizer, stock[SECOND])
    assert len(before) == 2 + 2 * 3  # A, B, and each one's step count and two moments

    switch_on(stock, SECOND)
    descend(stock, optimizer, 4)
    for then, now in zip(before, snapshot(optimizer, stock[FIRST]), strict=True):
        assert torch.equal(then, now)
    assert not torch.equal(other[0], stock[SECOND].A)

    switch_on(stock, FIRST, SECOND)
    descend(stock, optimizer, 1)
    assert not torch.equal(before[0], stock[FIRST].A)


def test_an_adapter_takes_up_again_where_it_stood() -> None:
    """Pausing an adapter between two steps under the same gradients changes nothing for it."""
    paused, steady = adapted(), adapted()
    grads = [torch.randn_like(paused[FIRST].A) for _ in range(2)]
    for stock, pause in ((paused, True), (steady, False)):
        optimizer = optimizer_of(stock)
        adapter = stock[FIRST]
        adapter.A.grad = grads[0].clone()
        optimizer.step()
        if pause:
            stock.apply({})
            descend(stock, optimizer, 3)
            switch_on(stock, FIRST, SECOND)
            optimizer.zero_grad(set_to_none=True)
        adapter.A.grad = grads[1].clone()
        optimizer.step()
    assert torch.equal(paused[FIRST].A, steady[FIRST].A)


def test_off_equals_absent_exactly() -> None:
    stock = adapted()
    x = torch.randn(5, 4)
    stock.apply({})
    model = stock.model
    plain = model.head(model.second.base(model.first.base(x).tanh()).tanh())
    assert torch.equal(model(x), plain)


def off_rows(optimizer: torch.optim.Optimizer, adapter: LowRank) -> list[torch.Tensor]:
    """Weights and moments of the ranks that are off."""
    rows = []
    for matrix, dim in ((adapter.A, 0), (adapter.B, 1)):
        moments = optimizer.state[matrix]
        for tensor in (matrix.detach(), moments["exp_avg"], moments["exp_avg_sq"]):
            rows.append(tensor.split([adapter.rank, adapter.capacity - adapter.rank], dim)[1])
    return [tensor.clone() for tensor in rows]


def test_rows_that_are_off_keep_weights_moments_and_decay_bit_for_bit() -> None:
    stock = adapted()
    optimizer = optimizer_of(stock)
    descend(stock, optimizer, 3)
    stock.apply({FIRST: 1, SECOND: 2})
    first = stock[FIRST]
    before, on = off_rows(optimizer, first), first.A[:1].detach().clone()
    assert all(tensor.any() for tensor in before)
    descend(stock, optimizer, 4)
    for then, now in zip(before, off_rows(optimizer, first), strict=True):
        assert torch.equal(then, now)
    assert not torch.equal(first.A[:1], on)
    stock.apply({FIRST: 2, SECOND: 2})
    rows = first.A[1:].detach().clone()
    descend(stock, optimizer, 1)
    assert not torch.equal(first.A[1:], rows)


def test_rows_that_were_never_on_have_neither_decay_nor_moments() -> None:
    stock = adapted()
    optimizer = optimizer_of(stock)
    stock.apply({FIRST: 1, SECOND: 2})
    rows = stock[FIRST].A[1:].detach().clone(), stock[FIRST].B[:, 1:].detach().clone()
    descend(stock, optimizer, 3)
    for then, now in zip(rows, off_rows(optimizer, stock[FIRST])[::3], strict=True):
        assert torch.equal(then, now)
    assert not any(tensor.any() for tensor in off_rows(optimizer, stock[FIRST])[1:3])


def test_tensor_names_say_the_site() -> None:
    names = ["layers.0.q.A", "layers.0.q.B", "layers.1.q.A", "layers.1.q.B"]
    assert list(adapted().named_tensors()) == [*names, "head.head.weight", "head.head.bias"]


def test_a_state_restores_weights_and_ranks() -> None:
    trained, fresh = adapted(), adapted()
    descend(trained, optimizer_of(trained), 2)
    trained.apply({SECOND: 1})
    fresh.load_state_dict(trained.state_dict())
    assert fresh.ranks == {FIRST: 0, SECOND: 1}
    x = torch.randn(3, 4)
    assert torch.equal(fresh.model(x), trained.model(x))


def test_a_state_of_other_sites_or_shapes_is_refused_and_changes_nothing() -> None:
    stock = adapted()
    state = copy.deepcopy(stock.state_dict())
    state["tensors"]["head.head.bias"] += 1
    without = {**state, "tensors": dict(state["tensors"])}
    del without["tensors"]["layers.1.q.B"]
    with pytest.raises(ValueError, match=r"names that differ: layers\.1\.q\.B"):
        stock.load_state_dict(without)
    other = {**state, "tensors": {**state["tensors"], "layers.1.q.B": torch.zeros(5, 3)}}
    with pytest.raises(ValueError, match=r"shapes that differ: layers\.1\.q\.B"):
        stock.load_state_dict(other)
    assert not torch.equal(stock.model.head.bias, state["tensors"]["head.head.bias"])
