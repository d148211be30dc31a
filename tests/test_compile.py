"""Faster steps: compiled, of few lengths, in TF32; and that none waits for a GPU."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import support
import torch
from conftest import composed, edited, problems, tiny_tokenizer
from omegaconf import DictConfig
from support import configured, space, subject, task
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import AutoConfig, AutoModel

from heterolora.adapters import Adapters
from heterolora.adapters.freezing import freeze_disabled
from heterolora.harness.config import identity, model_rules, prepare
from heterolora.harness.runs.build import build_search, build_trainer
from heterolora.kernels.unpadding import without_padding
from heterolora.losses import Batch, cross_entropy, inputs
from heterolora.tasks import Encoded
from heterolora.training.compiling import LENGTHS, compiled
from heterolora.training.engines import LocalEngine
from heterolora.training.optimizer import adamw
from heterolora.training.precision import matmul_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHORTCUTS = {"shortcuts": {"res1": 2, "res2": 2, "in": 2, "cut": 2}, "shortcut_alpha": 4}


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models without dropout."""
    load = AutoConfig.from_pretrained

    def without_dropout(*args: Any, **kwargs: Any) -> Any:
        config = load(*args, **kwargs)
        found = config[0] if isinstance(config, tuple) else config
        for name, value in found.to_dict().items():
            if "dropout" in name and value:
                setattr(found, name, 0.0)
        return config

    monkeypatch.setattr(AutoConfig, "from_pretrained", without_dropout)
    monkeypatch.setattr(support, "load", support.read)  # not a copy of one with dropout


@pytest.fixture(scope="module")
def shallow(
    checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Models of two layers, one after the other: each takes a compiler its time."""
    folders = {}
    for family in ("opt-post-norm", "bert"):
        config = AutoConfig.from_pretrained(checkpoints[family], num_hidden_layers=2)
        torch.manual_seed(0)
        folders[family] = tmp_path_factory.mktemp(f"shallow-{family}")
        AutoModel.from_config(config).save_pretrained(folders[family])
        tiny_tokenizer().save_pretrained(folders[family])
    return folders


Made = tuple[LocalEngine, Encoded]


def engine(
    checkpoint: Path,
    pairs: Path,
    compiler: Any = None,
    **wanted: object,
) -> Made:
    """An engine, compiled if there is a compiler, and what it is trained on."""
    made = subject(checkpoint, pairs, searched=space(**wanted))
    forward = compiled(made.adapters.model, compiler) if compiler else None
    optimizer = adamw(made.adapters, 0.01)
    of_pairs = task(path=str(pairs), sentences=("sentence1", "sentence2")).build()
    return LocalEngine(made.adapters, of_pairs, optimizer, forward=forward), made.examples


def allocate(adapters: Adapters, which: int) -> None:
    """One of three: sites of rank 0, 1 and 2 in turn."""
    adapters.apply({site: (index + which) % 3 for index, site in enumerate(adapters.sites)})


def losses(made: Made, batches: Iterable[Batch]) -> list[float]:
    """Two steps under each of three allocations."""
    found = []
    for step, batch in enumerate(batches):
        if step % 2 == 0:
            allocate(made[0].adapters, step // 2)
        found.append(made[0].step(batch).item())
    return found


def six(examples: Encoded) -> list[Batch]:
    return [examples.batch(range(4 * i, 4 * i + 4), 32) for i in range(6)]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("family", "renormalize"),
    [("opt-post-norm", "enabled"), pytest.param("bert", "always", marks=pytest.mark.slow)],
)
def test_compiled_steps_are_those_of_the_model_and_an_allocation_compiles_nothing_anew(
    family: str, renormalize: str, shallow: dict[str, Path], pairs: Path
) -> None:
    wanted = {**SHORTCUTS, "renormalize": renormalize}
    plain = engine(shallow[family], pairs, **wanted)
    counter = CompileCounterWithBackend("aot_eager")
    fast = engine(shallow[family], pairs, counter, **wanted)
    expected = losses(plain, six(plain[1]))
    assert losses(fast, six(fast[1])) == pytest.approx(expected, rel=1e-5)
    assert counter.frame_count == 1  # one graph, and none for another rank
    theirs = plain[0].adapters.named_tensors()
    for name, tensor in fast[0].adapters.named_tensors().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4)
    # A search and an evaluation, none of it compiled, leave nothing that would have to be.
    proxy = configured("gradnorm")
    assert any(proxy.scores(fast[0].adapters, proxy.sample(fast[1]), fast[0].task.loss).values())
    held_out = fast[1].subset(range(20))
    ours, same = fast[0].evaluate(held_out), plain[0].evaluate(held_out)
    assert ours["loss"] == pytest.approx(same["loss"], rel=1e-4)
    allocate(fast[0].adapters, 0)
    off = {}
    for site, adapter in fast[0].adapters.items():
        off[site] = (adapter.A[adapter.rank :].clone(), adapter.B[:, adapter.rank :].clone())
    with torch._dynamo.config.patch(error_on_recompile=True):
        fast[0].step(six(fast[1])[0])
    for site, adapter in fast[0].adapters.items():  # bit for bit
        assert torch.equal(off[site][0], adapter.A[adapter.rank :])
        assert torch.equal(off[site][1], adapter.B[:, adapter.rank :])
    assert counter.frame_count == 1


def test_each_length_is_compiled_for_once_also_beyond_torchs_limit() -> None:
    """Torch gives up after `recompile_limit` shapes, and goes on without a word."""
    counter = CompileCounterWithBackend("eager")
    model = torch.nn.Linear(2, 2)
    model.device = CPU
    forward = compiled(model, counter)
    with torch._dynamo.config.patch(recompile_limit=2):
        for length in (1, 2, 3, 4, 5, 4, 3):
            forward(input=torch.ones(length, 2))
    assert counter.frame_count == 5


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_kernels_give_the_losses_of_the_model(shallow: dict[str, Path], pairs: Path) -> None:
    plain = engine(shallow["opt-post-norm"], pairs)
    fast = engine(shallow["opt-post-norm"], pairs, "inductor")
    expected = losses(plain, six(plain[1]))
    assert losses(fast, six(fast[1])) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_compiled_dropout_goes_on_where_it_was(shallow: dict[str, Path], pairs: Path) -> None:
    """Bit for bit, in another process as well: the compiler's work is not in the state."""
    whole = engine(shallow["opt-post-norm"], pairs, "inductor")
    batches = six(whole[1])
    expected = [whole[0].step(batch).item() for batch in batches[:2]]
    state = whole[0].state_dict()
    kept = {"adapters": state["adapters"], "optimizer": state["optimizer"]}
    copied = torch.utils._pytree.tree_map(
        lambda x: x.clone() if isinstance(x, Tensor) else x, kept
    ) | {"dropout": state["dropout"]}
    expected = [whole[0].step(batch).item() for batch in batches[2:4]]
    resumed = engine(shallow["opt-post-norm"], pairs, "inductor")
    resumed[0].load_state_dict(copied)
    assert [resumed[0].step(batch).item() for batch in batches[2:4]] == expected


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("family", ["opt-pre-norm", "roberta"])
def test_padding_to_a_multiple_changes_no_loss(
    family: str, checkpoints: dict[str, Path], pairs: Path
) -> None:
    plain, padded = (engine(checkpoints[family], pairs) for _ in range(2))
    found = {
        multiple: losses(made, [made[1].batch(range(i, i + 4), multiple) for i in range(6)])
        for made, multiple in ((plain, 1), (padded, 16))
    }
    assert found[16] == pytest.approx(found[1], abs=1e-6)


def encoded(lengths: Sequence[int], **settings: Any) -> Encoded:
    rows = [torch.arange(length) + 1 for length in lengths]
    features = {"input_ids": rows, "attention_mask": [torch.ones_like(row) for row in rows]}
    made = Encoded(features, {"input_ids": 7, "attention_mask": 0}, CPU, **settings)
    return made.with_labels([torch.tensor(i) for i in range(len(rows))])


def test_lengths_are_rounded_up_but_not_above_the_limit() -> None:
    examples = encoded([3, 16, 17, 21], limit=21)
    shapes = {
        (multiple, longest): examples.batch([0, longest], multiple)["input_ids"].shape[1]
        for multiple in (1, 8, 16)
        for longest in (0, 1, 2, 3)
    }
    assert [shapes[1, i] for i in range(4)] == [3, 16, 17, 21]
    assert [shapes[8, i] for i in range(4)] == [8, 16, 21, 21]
    assert [shapes[16, i] for i in range(4)] == [16, 16, 21, 21]
    batch = examples.batch([0, 0], 4)
    assert batch["input_ids"].tolist() == 2 * [[1, 2, 3, 7]]
    assert batch["attention_mask"].tolist() == 2 * [[1, 1, 1, 0]]
    assert batch["labels"].tolist() == [0, 0]
    assert encoded([3], multiple=8).batch([0])["input_ids"].shape[1] == 3
    (shuffled,) = encoded([3], multiple=8).shuffled(2, seed=0, epoch=0)
    assert shuffled["input_ids"].shape[1] == 8  # without a limit
    (in_order,) = encoded([3], multiple=8).in_order(2)
    assert in_order["input_ids"].shape[1] == 3  # for searches and evaluations


LONG = [5, 9, 2, 14, 7, 3, 11, 8, 2, 6, 13, 4, 10, 12, 1, 5, 9, 3, 2, 8, 7]


def test_examples_of_like_length_share_batches() -> None:
    plain, grouped = encoded(LONG), encoded(LONG, window=3)

    def labels(examples: Encoded, skip: int = 0, seed: int = 1, epoch: int = 0) -> list[list[int]]:
        batches = examples.shuffled(4, seed, epoch, skip)
        return [batch["labels"].tolist() for batch in batches]

    made = labels(grouped)
    assert sorted(chain(*made)) == list(range(len(LONG)))
    assert [len(batch) for batch in made] == [4, 4, 4, 4, 4, 1]
    assert made == labels(grouped)
    assert labels(grouped, seed=2) != made
    assert labels(grouped, epoch=1) != made
    for skip in range(6):
        assert labels(grouped, skip) == made[skip:]
    # Windows have the examples that they would have had, batches the neighbors in length.
    before = labels(plain)
    assert {*chain(*made[:3])} == {*chain(*before[:3])}
    assert made[5] == before[5]
    ends = sorted((min(LONG[i] for i in b), max(LONG[i] for i in b)) for b in made[:3])
    assert all(low[1] <= high[0] for low, high in pairwise(ends))
    orders = {tuple(max(LONG[i] for i in b) for b in labels(grouped, epoch=e)) for e in range(9)}
    assert any(list(order[:3]) != sorted(order[:3]) for order in orders)

    def cells(examples: Encoded) -> int:
        return sum(b["input_ids"].numel() for e in range(9) for b in examples.shuffled(4, 1, e))

    assert cells(grouped) < 0.9 * cells(plain)


def test_batches_go_to_a_gpu_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: calls.append("pinned") or self)
    monkeypatch.setattr(Tensor, "to", lambda self, *a, **k: calls.append((a, k)) or self)
    examples = encoded([3, 4])
    object.__setattr__(examples, "device", CUDA)
    examples.batch([0, 1])
    assert calls == 3 * ["pinned", ((CUDA,), {"non_blocking": True})]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("family", ["opt-post-norm", "bert", "llama"])
def test_a_step_reads_nothing_back(
    family: str, checkpoints: dict[str, Path], pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device whose tensors have no content, whoever asks for it fails."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # it knows no such device
    wanted = {**SHORTCUTS, "renormalize": "enabled"}
    made = subject(checkpoints[family], pairs, searched=space(**wanted))
    adapters, model = made.adapters, made.adapters.model.train().to("meta")
    optimizer = torch.optim.AdamW(list(adapters.named_tensors().values()))
    freeze_disabled(optimizer, adapters)
    for which in range(3):
        allocate(adapters, which)
        batch = {name: tensor.to("meta") for name, tensor in six(made.examples)[which].items()}
        with without_padding():
            total, count = cross_entropy(model(**inputs(batch)), batch)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(total)


def test_tf32_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    for tf32, device in ((False, CUDA), (True, CPU)):
        with matmul_precision(tf32, device):
            assert torch.get_float32_matmul_precision() == before
    with matmul_precision(True, CUDA):
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(KeyError), matmul_precision(True, CUDA):
        raise KeyError
    assert torch.get_float32_matmul_precision() == before


@pytest.fixture(scope="module")
def house(checkpoints: dict[str, Path], pairs: Path) -> DictConfig:
    path = f"model.path={checkpoints['opt-post-norm']}"
    return composed(
        *("device=cpu", "tracking=local", "task=rte", "model=opt_350m"),
        *(path, f"task.path={pairs}"),
    )


@pytest.mark.parametrize("name", ["compile", "tf32", "group_by_length"])
def test_the_settings_are_true_or_false(name: str, house: DictConfig) -> None:
    (line,) = problems(edited(house, f"training.{name}=often"))
    assert line.startswith(f"training.{name}=often: must be")
    assert line.endswith(f"for example training.{name}=true")


def test_what_has_no_effect_is_refused(house: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(edited(house, "training.tf32=true", "training.compile=true"))
    (line,) = problems(edited(house, "training.tf32=true", "precision=bf16"))
    assert line.startswith("training.tf32=true: has no effect with precision=bf16")
    monkeypatch.setattr(model_rules.shutil, "which", lambda _: None)
    (line,) = problems(edited(house, "training.compile=true"))
    assert line.startswith("training.compile=true: device=cpu needs a C++ compiler")


def test_settings_that_came_later_leave_earlier_runs_alone(
    house: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = prepare(house)
    resolved = config.resolved()
    before = identity(config)
    for name in ("compile", "tf32", "group_by_length"):
        del resolved["training"][name]
    monkeypatch.setattr(type(config), "resolved", lambda _: resolved)
    assert identity(config) == before


@pytest.mark.parametrize("on", [False, True])
def test_a_configuration_builds_it(
    on: bool, house: DictConfig, pairs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("heterolora.harness.runs.build.compiled", asked.append)
    word = str(on).lower()
    changes = [f"training.compile={word}", f"training.group_by_length={word}"]
    config = prepare(edited(house, *changes))
    made = subject(Path(house.model.path), pairs)
    splits = {"train": made.examples, "validation": made.examples}
    search = build_search(config, made.adapters, config.task.build(), made.examples)
    trainer = build_trainer(
        *(config, made.adapters, config.task.build(), splits, search),
        *(Silent(), tmp_path, Silent(), Silent()),
    )
    assert asked == ([made.adapters.model] if on else [])
    assert (trainer.train.multiple, trainer.train.window) == ((LENGTHS, 50) if on else (1, None))
    assert search is not None
    assert search.examples is made.examples  # not padded further
    assert trainer.validation[""] is made.examples


class Silent:
    """Stands for parts that are only handed on."""

    def __init__(self) -> None:
        self.stateful: dict[str, Callable[..., Any]] = {}
