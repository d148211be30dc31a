"""LoRA by its formula, and off means off."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from heterolora.adapters import Inventory, LoRALinear, LowRank
from heterolora.config import OptimizerConfig
from heterolora.seeding import torch_generator
from heterolora.sites import Site
from heterolora.training import checkpoint
from heterolora.training.optimizer import build_optimizer

ADAMW = OptimizerConfig(
    name="adamw", learning_rate=0.1, weight_decay=0.5, betas=(0.9, 0.99), eps=1e-8
)


def randomised(adapter: LowRank, seed: int = 0) -> LowRank:
    """With a B that is not zero."""
    nn.init.normal_(adapter.B, generator=torch.Generator().manual_seed(seed))
    return adapter


class TwoLayers(nn.Module):
    """Two adapted linear layers, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = LoRALinear(nn.Linear(4, 6), randomised(new(4, 6)))
        self.second = LoRALinear(nn.Linear(6, 5), randomised(new(6, 5)))
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x).tanh()).tanh())


def new(d_in: int, d_out: int, rank: int = 2, alpha: float = 16) -> LowRank:
    return LowRank(d_in, d_out, rank, alpha, torch_generator(0, "test", d_in, d_out))


FIRST, SECOND = Site(0, "q"), Site(1, "q")


def inventory() -> Inventory:
    model = TwoLayers()
    adapters = {FIRST: model.first.adapter, SECOND: model.second.adapter}
    return Inventory(model, adapters, model.head.parameters())


@given(
    d_in=st.integers(1, 9),
    d_out=st.integers(1, 9),
    rank=st.integers(1, 4),
    alpha=st.sampled_from([1.0, 4.0, 16.0]),
    gate=st.sampled_from([0.0, 1.0]),
)
def test_lora_is_its_equation(d_in: int, d_out: int, rank: int, alpha: float, gate: float) -> None:
    base = nn.Linear(d_in, d_out).double()
    adapter = randomised(new(d_in, d_out, rank, alpha)).double()
    adapter.gate.fill_(gate)
    x = torch.randn(3, 7, d_in, dtype=torch.float64)
    merged = base.weight + gate * alpha / rank * adapter.B @ adapter.A
    expected = torch.einsum("bti,oi->bto", x, merged) + base.bias
    torch.testing.assert_close(LoRALinear(base, adapter)(x), expected)


def test_initialisation_is_loras() -> None:
    adapter = new(64, 32, rank=50)
    bound = 1 / math.sqrt(64)  # sqrt(6 / ((1 + 5) fan_in))
    assert adapter.A.abs().max() <= bound
    assert adapter.A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert not adapter.B.any()
    assert adapter.gate == 1


def test_costs() -> None:
    stock = inventory()
    assert stock.costs() == {FIRST: 2 * (4 + 6), SECOND: 2 * (6 + 5)}
    assert stock.unit_costs() == {FIRST: 4 + 6, SECOND: 6 + 5}
    assert stock.head_count() == 5 * 2 + 2
    assert stock.enabled_count() == 42
    stock.enable_only([SECOND])
    assert stock.enabled_count() == 22


def test_only_adapters_and_head_are_trainable() -> None:
    stock = inventory()
    trainable = {name for name, p in stock.model.named_parameters() if p.requires_grad}
    adapters = {f"{layer}.adapter.{m}" for layer in ("first", "second") for m in "AB"}
    assert trainable == adapters | {"head.weight", "head.bias"}


def descend(stock: Inventory, optimizer: torch.optim.Optimizer, steps: int) -> None:
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
    stock = inventory()
    optimizer = build_optimizer(stock, ADAMW)
    descend(stock, optimizer, 3)
    before = snapshot(optimizer, stock.adapters[FIRST])
    other = snapshot(optimizer, stock.adapters[SECOND])
    assert len(before) == 2 + 2 * 3  # A, B, and each one's step count and two moments

    stock.enable_only([SECOND])
    descend(stock, optimizer, 4)
    for then, now in zip(before, snapshot(optimizer, stock.adapters[FIRST]), strict=True):
        assert torch.equal(then, now)
    assert not torch.equal(other[0], stock.adapters[SECOND].A)

    stock.enable_only([FIRST, SECOND])
    descend(stock, optimizer, 1)
    assert not torch.equal(before[0], stock.adapters[FIRST].A)


def test_an_adapter_takes_up_again_where_it_stood() -> None:
    """Pausing an adapter between two steps under the same gradients changes nothing for it."""
    paused, steady = inventory(), inventory()
    grads = [torch.randn_like(paused.adapters[FIRST].A) for _ in range(2)]
    for stock, pause in ((paused, True), (steady, False)):
        optimizer = build_optimizer(stock, ADAMW)
        adapter = stock.adapters[FIRST]
        adapter.A.grad = grads[0].clone()
        optimizer.step()
        if pause:
            stock.enable_only([])
            descend(stock, optimizer, 3)
            stock.enable_only([FIRST, SECOND])
            optimizer.zero_grad(set_to_none=True)
        adapter.A.grad = grads[1].clone()
        optimizer.step()
    assert torch.equal(paused.adapters[FIRST].A, steady.adapters[FIRST].A)


def test_off_equals_absent_exactly() -> None:
    stock = inventory()
    x = torch.randn(5, 4)
    stock.enable_only([])
    model = stock.model
    plain = model.head(model.second.base(model.first.base(x).tanh()).tanh())
    assert torch.equal(model(x), plain)


def test_state_names_say_the_site() -> None:
    names = ["layers.0.q.A", "layers.0.q.B", "layers.1.q.A", "layers.1.q.B"]
    assert list(inventory().state()) == [*names, "head.head.weight", "head.head.bias"]


def test_a_checkpoint_restores_weights_and_allocation(tmp_path) -> None:
    trained, fresh = inventory(), inventory()
    descend(trained, build_optimizer(trained, ADAMW), 2)
    trained.enable_only([SECOND])
    checkpoint.save(tmp_path / "folder" / "best.safetensors", trained, epoch=1)
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["best.safetensors"]
    checkpoint.restore(tmp_path / "folder" / "best.safetensors", fresh)
    assert fresh.enabled == {SECOND}
    x = torch.randn(3, 4)
    assert torch.equal(fresh.model(x), trained.model(x))


def test_a_state_of_other_sites_is_refused() -> None:
    stock = inventory()
    state = stock.state()
    del state["layers.1.q.B"]
    with pytest.raises(KeyError, match=r"layers\.1\.q\.B"):
        stock.load_state(state)
