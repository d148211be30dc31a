"""Many runs in one pass: each is trained as it would be alone."""

import copy
import functools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support import load, space, task
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM

from heterolora import architectures
from heterolora.adapters import Adapters
from heterolora.losses import Batch, next_token
from heterolora.sites import SHORTCUT_ROLES, Site
from heterolora.training.engines import LocalEngine
from heterolora.training.engines.packed import PackedEngine, packable
from heterolora.training.optimizer import adamw


@pytest.fixture(scope="session")
def still(
    checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The tiny checkpoints without any dropout."""
    made = {}
    for family, path in checkpoints.items():
        made[family] = shutil.copytree(path, tmp_path_factory.mktemp(family) / "still")
        config = json.loads((path / "config.json").read_text())
        config |= {name: 0.0 for name in config if "drop" in name and config[name] is not None}
        (made[family] / "config.json").write_text(json.dumps(config))
    return made


loaded_once = functools.cache(load)


@dataclass(frozen=True)
class Member:
    """A run of a pack: its seed, what it can hold, what is on in each half, its rate."""

    seed: int
    capacity: int
    ranks: Sequence[Callable[[Site], int]]
    learning_rate: float = 1e-3

    def engine(self, path: Path, renormalize: str | None = None) -> LocalEngine:
        # A copy takes a tenth of the time of loading once more.
        loaded = loaded_once(path, self.seed)
        model, head = copy.deepcopy((loaded.model, loaded.head))
        changes: dict[str, Any] = {"lora": {"q": self.capacity, "v": self.capacity}}
        if renormalize:
            shortcuts = dict.fromkeys(SHORTCUT_ROLES, self.capacity)
            changes |= {"shortcuts": shortcuts, "renormalize": renormalize}
        adapters = architectures.wire(model, loaded.family, space(**changes), head, self.seed)
        return LocalEngine(adapters, task().build(), adamw(adapters, self.learning_rate))

    def batch(self, step: int) -> Batch:
        """Four rows of 2 to 7 tokens, another order of them for each seed."""
        generator = torch.Generator().manual_seed(1000 * self.seed + step)
        return rows(torch.randint(2, 8, (4,), generator=generator).tolist(), generator)

    def allocate(self, adapters: Adapters, half: int) -> None:
        """Switch on what is to be on in a half of the training."""
        adapters.apply({site: self.ranks[half](site) for site in adapters.sites})


def rows(lengths: Sequence[int], generator: torch.Generator) -> Batch:
    """Random tokens, padded to the longest row, and random labels."""
    ids = torch.randint(4, 20, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    labels = torch.randint(2, (len(lengths),), generator=generator)
    return {
        "input_ids": ids.masked_fill(~mask, 1),
        "attention_mask": mask.long(),
        "labels": labels,
    }


NOWHERE = Site(2, "v")
"""On in no member."""
MEMBERS = (
    # The homogeneous model: everything but one site, at a capacity of its own.
    Member(seed=0, capacity=2, ranks=[lambda site: 2 * (site != NOWHERE)] * 2),
    # Some sites, one layer of them partly, then others.
    Member(
        seed=1,
        capacity=8,
        ranks=[
            lambda site: {0: 8, 1: 5}.get(site.layer, 0),
            lambda site: 3 * (site.role in ("q", "res1")) + 5 * (site.role == "cut"),
        ],
    ),
    Member(seed=2, capacity=8, ranks=[lambda site: 0] * 2),
    Member(
        seed=3,
        capacity=8,
        ranks=[lambda site: 8 * (site.role != "v")] * 2,
        learning_rate=3e-3,
    ),
)


def standing(engine: LocalEngine) -> dict[str, Tensor]:
    """Copies of the weights and of the moments of every entry."""
    state = engine.state_dict()
    kept = {name: tensor.clone() for name, tensor in state["adapters"]["tensors"].items()}
    for name, moments in state["optimizer"].items():
        kept |= {f"{name} {key}": value.clone() for key, value in moments.items()}
    return kept


def off(engine: LocalEngine, kept: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of `kept` that is of ranks that are off."""
    found = {}
    for site, adapter in engine.adapters.items():
        for name, tensor in kept.items():
            rank = adapter.rank
            if name.partition(" ")[0] == f"{site}.A" and tensor.dim():
                found[name] = tensor[rank:]
            if name.partition(" ")[0] == f"{site}.B" and tensor.dim():
                found[name] = tensor[:, rank:]
    return found


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def check_pack(path: Path, renormalize: str | None, steps: int) -> None:
    """Losses and weights of every member are those of a training alone; off is off."""
    alone = [member.engine(path, renormalize) for member in MEMBERS]
    packed = PackedEngine([member.engine(path, renormalize) for member in MEMBERS])
    stood: list[dict[str, Tensor]] = [{} for _ in MEMBERS]
    for step in range(steps):
        if step in (0, steps // 2):
            for index, member in enumerate(MEMBERS):
                for engine in (alone[index], packed.members[index]):
                    member.allocate(engine.adapters, 2 * step // steps)
                stood[index] = standing(packed.members[index])
        batches = [member.batch(step) for member in MEMBERS]
        losses = packed.step(batches)
        expected = [engine.step(batch) for engine, batch in zip(alone, batches, strict=True)]
        torch.testing.assert_close(
            torch.stack(losses), torch.stack(expected), rtol=1e-5, atol=1e-5, msg=f"step {step}"
        )
    for index, (ours, theirs) in enumerate(zip(packed.members, alone, strict=True)):
        mine, solo = standing(ours), standing(theirs)
        assert mine.keys() == solo.keys()
        for name, tensor in mine.items():
            if " " not in name:
                torch.testing.assert_close(
                    tensor, solo[name], rtol=1e-5, atol=1e-5, msg=f"{index} {name}"
                )
        before, after = off(ours, stood[index]), off(ours, mine)
        assert_equal(before, {name: after[name] for name in before})
        # Nothing that never was on has any moments.
        assert all(not after[name].any() for name in after.keys() - before.keys())
        moved = [name for name in stood[index] if not torch.equal(stood[index][name], mine[name])]
        assert any("head." in name for name in moved)
        assert any(".B" in name for name in moved) == bool(ours.adapters.enabled)


WIRED = [
    *((family, None) for family in ("opt-post-norm", "opt-pre-norm", "bert", "llama")),
    *(("opt-post-norm", how) for how in ("always", "enabled")),
    *(("bert", how) for how in ("always", "enabled")),
    ("opt-pre-norm", "always"),
    ("llama", "enabled"),
]
ONLY_LONG = {("opt-post-norm", None), ("bert", "always"), ("bert", "enabled"), ("llama", "enabled")}
"""Of a family that has a short training with another wiring, and a wiring of other families."""
SHORT = [(*wired, 4) for wired in WIRED if wired not in ONLY_LONG]
LONG = [
    pytest.param(
        *wired, 50, marks=pytest.mark.slow if wired in ONLY_LONG else pytest.mark.exhaustive
    )
    for wired in WIRED
]


@pytest.mark.parametrize(("family", "renormalize", "steps"), [*SHORT, *LONG])
def test_each_member_is_trained_as_if_it_were_alone(family, renormalize, steps, still) -> None:
    check_pack(still[family], renormalize, steps)


def pack(path: Path, *seeds: int, **options: Any) -> list[LocalEngine]:
    """Members that have everything on."""
    return [Member(seed, 2, []).engine(path, **options) for seed in seeds]


def test_members_have_one_frozen_model(still) -> None:
    members = pack(still["bert"], 0, 1, 2, renormalize="always")
    before = {name: p.clone() for name, p in members[0].adapters.model.named_parameters()}
    engine = PackedEngine(members)
    places: dict[str, set[int]] = {}
    trained = {id(p) for member in members for p in member.adapters.named_tensors().values()}
    for member in members:
        for name, parameter in member.adapters.model.named_parameters():
            places.setdefault(name, set()).add(parameter.data_ptr())
            assert parameter.requires_grad == (id(parameter) in trained)
    frozen = {
        name for name, p in members[0].adapters.model.named_parameters() if id(p) not in trained
    }
    assert {len(places[name]) for name in frozen} == {1}
    assert {len(places[name]) for name in places.keys() - frozen} == {3}
    own = {p.data_ptr() for p in engine.model.parameters()}
    assert all(places[name] <= own for name in frozen)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        engine.step([rows([3, 5], generator) for _ in members])
    for name, parameter in members[0].adapters.model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in frozen), name


def test_members_can_train_alone_in_between(still) -> None:
    """State is the members' own: what a pack did is there, and what it did not do it takes up."""
    path = still["opt-post-norm"]
    alone, members = pack(path, 0, 1), pack(path, 0, 1)
    engine = PackedEngine(members)
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        batches = [rows([3, 5, 2], generator) for _ in members]
        if step == 4:  # resumed
            fresh = pack(path, 0, 1)
            for old, new in zip(members, fresh, strict=True):
                new.load_state_dict(old.state_dict())
            members, engine = fresh, PackedEngine(fresh)
        if step % 3 == 1:
            losses = [member.step(batch) for member, batch in zip(members, batches, strict=True)]
        else:
            losses = engine.step(batches)
        expected = [member.step(batch) for member, batch in zip(alone, batches, strict=True)]
        torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=1e-5, atol=1e-6)


def trained(
    path: Path, seeds: Sequence[int], lengths: Sequence[int], *, alone: bool = False
) -> list[tuple[Tensor, dict[str, Tensor], Tensor]]:
    """Losses, weights and the place in the dropout stream of each member after three steps."""
    members = pack(path, *seeds)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    engine = PackedEngine(members)
    losses = []
    for step in range(3):
        turned = [*lengths[step:], *lengths[:step]]
        batches = [rows(turned, generator) for generator in generators]
        if alone:
            made = [member.step(batch) for member, batch in zip(members, batches, strict=True)]
        else:
            made = engine.step(batches)
        losses.append(torch.stack(made))
    return [
        (torch.stack(losses)[:, index], standing(member), member.dropout.states["cpu"])
        for index, member in enumerate(members)
    ]


PADDED, FULL = (3, 6, 2, 4), (5, 5, 5, 5)
with_dropout = pytest.mark.parametrize("family", ["opt-post-norm", "bert"])
of_lengths = pytest.mark.parametrize(
    ("family", "lengths"),
    [
        pytest.param("opt-post-norm", PADDED, id="opt-post-norm-padded"),
        pytest.param("bert", FULL, id="bert-full"),
        pytest.param("bert", PADDED, id="bert-padded", marks=pytest.mark.exhaustive),
        pytest.param("opt-post-norm", FULL, id="opt-post-norm-full", marks=pytest.mark.exhaustive),
    ],
)


@of_lengths
def test_each_member_draws_its_dropout_from_its_own_stream(family, lengths, checkpoints) -> None:
    """Whoever else is in the pack, and wherever torch's own generator stands."""
    path = checkpoints[family]
    torch.manual_seed(1)
    global_state = torch.get_rng_state()
    losses, weights, stream = trained(path, [0, 1, 2], lengths)[0]
    assert torch.equal(torch.get_rng_state(), global_state)
    torch.manual_seed(2)
    again = trained(path, [0, 1, 2], lengths)[0]
    assert torch.equal(again[0], losses)
    assert_equal(again[1], weights)
    for seeds in ([5, 0], [0, 7, 8]):
        torch.manual_seed(3)
        other = trained(path, seeds, lengths)[seeds.index(0)]
        assert torch.equal(other[2], stream)
        torch.testing.assert_close(other[0], losses, rtol=1e-5, atol=1e-6)
        for name, tensor in other[1].items():
            torch.testing.assert_close(tensor, weights[name], rtol=1e-4, atol=1e-5)


@of_lengths
def test_with_equal_lengths_dropout_is_that_of_a_run_alone(family, lengths, checkpoints) -> None:
    path = checkpoints[family]
    packed = trained(path, [0, 1, 2], lengths)
    alone = trained(path, [0, 1, 2], lengths, alone=True)
    for ours, theirs in zip(packed, alone, strict=True):
        assert torch.equal(ours[2], theirs[2])
        torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)


@with_dropout
def test_members_drop_different_elements(family, checkpoints, still) -> None:
    """Two members of the same weights and batch."""
    for path, same in ((still[family], True), (checkpoints[family], False)):
        members = pack(path, 0, 1)
        members[1].adapters.load_state_dict(members[0].adapters.state_dict())
        batch = rows(PADDED, torch.Generator().manual_seed(0))
        PackedEngine(members).step([batch, batch])
        heads = [list(member.adapters.head.values())[-1].grad for member in members]
        named = [member.adapters.named_tensors()["layers.0.v.B"].grad for member in members]
        for first, second in (heads, named):
            difference = (first - second).abs().max() / first.abs().max()
            assert difference < 1e-5 if same else difference > 1e-4


def test_what_cannot_be_packed_is_told(still) -> None:
    path = still["bert"]
    plain, shortcuts = pack(path, 0), pack(path, 1, renormalize="always")
    with pytest.raises(ValueError, match="runs with other sites or another head cannot be packed"):
        PackedEngine([*plain, *shortcuts])

    def headed(seed: int, *modules: str) -> LocalEngine:
        loaded = load(path, seed)
        head = [p for m in modules for p in loaded.model.get_submodule(m).parameters()]
        adapters = architectures.wire(loaded.model, loaded.family, space(), head, seed)
        return LocalEngine(adapters, task().build(), adamw(adapters, 1e-3))

    with pytest.raises(ValueError, match="runs with other sites or another head cannot be packed"):
        PackedEngine([headed(0, "classifier"), headed(1, "classifier", "bert.pooler")])
    norm = "bert.embeddings.LayerNorm"
    with pytest.raises(ValueError, match=f"{norm}: a LayerNorm of a head cannot be packed"):
        PackedEngine([headed(0, norm), headed(1, norm)])


def test_a_head_of_two_layers_with_biases(still) -> None:
    """RoBERTa's, of which only the classification's is a linear layer by itself."""
    path = still["roberta"]
    alone, packed = pack(path, 0, 1), PackedEngine(pack(path, 0, 1))
    assert len(alone[0].adapters.head) == 4
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        batches = [rows([3, 5], generator), rows([7, 2], generator)]
        losses = packed.step(batches)
        expected = [engine.step(batch) for engine, batch in zip(alone, batches, strict=True)]
        torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(packed.members, alone, strict=True):
        for name, tensor in ours.adapters.named_tensors().items():
            torch.testing.assert_close(
                tensor, theirs.adapters.named_tensors()[name], rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize(("family", "alone"), [("bert", False), ("deberta", True)])
def test_a_model_that_maps_more_than_tokens_steps_alone(family, alone, checkpoints) -> None:
    (engine,) = pack(checkpoints[family], 0)
    assert packable(engine) is not alone


class TokenTask:
    """A language model's loss, each mean over its own number of tokens."""

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        return next_token(output, batch)


def test_a_language_model_without_a_head(still) -> None:
    def engine(seed: int) -> LocalEngine:
        torch.manual_seed(0)
        model = OPTForCausalLM(OPTConfig.from_pretrained(still["opt-pre-norm"]))
        adapters = architectures.adapt(model, {"q": 2, "v": 2}, seed=seed)
        assert not adapters.head
        return LocalEngine(adapters, TokenTask(), adamw(adapters, 1e-3))

    alone, packed = [engine(0), engine(1)], PackedEngine([engine(0), engine(1)])
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        batches = [dict(rows(lengths, generator)) for lengths in ([3, 5], [7, 2])]
        for batch in batches:
            ids, mask = batch["input_ids"], batch["attention_mask"]
            batch["labels"] = ids.masked_fill(mask == 0, -100)
        losses = packed.step(batches)
        expected = [engine.step(batch) for engine, batch in zip(alone, batches, strict=True)]
        torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=1e-5, atol=1e-6)
