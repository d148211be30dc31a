"""Dynamic allocation in a Trainer of Transformers, on a PEFT model."""

import copy
import functools
import gc
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import IterableDataset, SequentialSampler
from transformers import (
    AutoModelForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

import heterolora as hl
from heterolora.errors import ModelError
from heterolora.harness.records.schema import SEARCH_ROW
from heterolora.integrations.sites import STATE, PeftSites
from heterolora.settings import setting

ROWS, BATCH, STEPS = 48, 8, 6
CAPACITY, BUDGET = 4, 2


def rows() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 20, (ROWS, 9), generator=generator)
    labels = (ids[:, 1] < ids[:, 2]).long()
    return [
        {"input_ids": row.tolist(), "attention_mask": [1] * 9, "labels": int(label)}
        for row, label in zip(ids, labels, strict=True)
    ]


@pytest.fixture(autouse=True, scope="module")
def _little_to_collect() -> Iterator[None]:
    """A Trainer collects garbage at its end, which need not look at all that was imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@functools.cache
def classifier(path: Path, dropout: float) -> nn.Module:
    torch.manual_seed(0)
    options = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return AutoModelForSequenceClassification.from_pretrained(path, **options)


def model(path: Path, dropout: float = 0.0, **settings: Any) -> nn.Module:
    base = copy.deepcopy(classifier(path, dropout))
    torch.manual_seed(0)
    settings = {"r": CAPACITY, "lora_alpha": 8, "target_modules": ["query", "value"]} | settings
    return get_peft_model(base, LoraConfig(task_type="SEQ_CLS", **settings))


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 3,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 0.02,
        "weight_decay": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "logging_steps": 2,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 5,
    }
    return TrainingArguments(**(settings | changes))


class InOrder(Trainer):
    """Takes the examples as they come."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def proxy(**changes: Any) -> hl.proxies.GradNorm:
    return hl.proxies.GradNorm(num_batches=2, batch_size=4, **changes)


@dataclass(frozen=True)
class Shaken(hl.proxies.GradNorm):
    """Gradient norms times numbers that are drawn anew at each search, so that ranks change."""

    num_batches: int = setting(2, help="")
    batch_size: int = setting(4, help="")
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def scores(self, *args: Any, **kwargs: Any) -> dict[hl.Site, float]:
        found = super().scores(*args, **kwargs)
        return {site: score * self.rng.random() ** 2 for site, score in found.items()}


def callback(**changes: Any) -> hl.HeteroLoRACallback:
    settings: dict[str, Any] = {
        "budget_rank": BUDGET,
        "proxy": proxy(),
        "strategy": hl.strategies.Dynamic(searches_per_epoch=3),
    }
    return hl.HeteroLoRACallback(**(settings | changes))


def trainer(
    lora: nn.Module, args: TrainingArguments, *callbacks: TrainerCallback, **more: Any
) -> Trainer:
    return InOrder(
        model=lora,
        args=args,
        train_dataset=more.pop("data", rows()),
        callbacks=[*callbacks],
        **more,
    )


def trained(lora: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in lora.named_parameters() if p.requires_grad}


def logits(lora: nn.Module) -> Tensor:
    batch = default_data_collator(rows())
    with torch.no_grad():
        return lora.eval()(**{k: v for k, v in batch.items() if k != "labels"}).logits


# ---- against this library's own loop, written out


@pytest.mark.parametrize("selection", [hl.selection.Top(), hl.selection.Proportional(floor=1)])
def test_it_trains_what_a_loop_of_this_library_trains(
    selection: hl.selection.Selection, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    lora = model(checkpoints["bert"])
    before = trained(lora)
    back = callback(selection=selection, proxy=Shaken())
    # Without weight decay: a Trainer leaves biases out of it.
    trainer(lora, arguments(tmp_path, num_train_epochs=2, weight_decay=0.0), back).train()

    own = model(checkpoints["bert"]).unload()
    adapters = hl.adapt(
        own, {"q": CAPACITY, "v": CAPACITY}, lora_alpha=8, seed=5, head=own.classifier.parameters()
    )
    names = {"q": "query", "v": "value"}
    place = "base_model.model.bert.encoder.layer.{}.attention.self.{}.lora_{}.default.weight"
    with torch.no_grad():
        for site, adapter in adapters.items():
            adapter.A.copy_(before[place.format(site.layer, names[site.role], "A")])
        for name, parameter in own.classifier.named_parameters():
            parameter.copy_(before[f"base_model.model.classifier.modules_to_save.default.{name}"])

    class Examples:
        def in_order(self, size: int, count: int) -> Iterator[dict[str, Tensor]]:
            for start in range(0, count, size):
                yield default_data_collator(rows()[:count][start : start + size])

    budget = adapters.count * BUDGET // CAPACITY
    search = hl.Search(
        adapters, Shaken(), Examples(), [hl.Pool(frozenset(adapters), budget)], selection
    )
    optimizer = hl.adamw(adapters, 0.02, weight_decay=0.0)
    ranks = []
    for _ in range(2):
        for step in range(STEPS):
            if step % 2 == 0:
                ranks.append(search()["ranks"])
            batch = default_data_collator(rows()[step * BATCH : (step + 1) * BATCH])
            labels = batch.pop("labels")
            optimizer.zero_grad()
            nn.functional.cross_entropy(own.train()(**batch).logits, labels).backward()
            optimizer.step()
    assert [row["ranks"] for row in back.searches] == ranks
    assert len({json.dumps(row) for row in ranks}) > 1
    assert (logits(lora) - logits(own)).abs().max() < 1e-5
    after = trained(lora)
    for site, adapter in adapters.items():
        b = after[place.format(site.layer, names[site.role], "B")]
        expected = adapter.B.detach().clone()
        expected[:, adapter.rank :] = 0  # what is off is not in the model
        assert torch.allclose(b, expected, atol=1e-5)


class Watch(TrainerCallback):
    """What is off, at every step: the gradients before the optimizer, the weights after it."""

    def __init__(self, back: hl.HeteroLoRACallback) -> None:
        self.back, self.kept, self.seen, self.steps = back, {}, 0, 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps += 1
        for adapter in self.back._sites.values():
            rank = adapter.rank
            self.seen += rank < adapter.capacity
            assert not adapter.B.grad[:, rank:].any()
            assert not adapter.A.grad[rank:].any()
            assert rank == 0 or adapter.B.grad[:, :rank].any()
        self.kept = {site: (a.rank, a.matrices) for site, a in self.back._sites.items()}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        moments = self.back._optimizer.state
        for site, (rank, (a, b)) in self.kept.items():
            adapter = self.back._sites[site]
            now_a, now_b = adapter.matrices
            assert torch.equal(a[rank:], now_a[rank:])
            assert torch.equal(b[:, rank:], now_b[:, rank:])
            assert not adapter.B[:, rank:].any()
            assert rank == 0 or not torch.equal(b, now_b)
            if rank == 0:
                counts = moments.get(adapter.B, {}).get("step", torch.tensor(0.0))
                assert counts < self.steps or self.steps == 1


@pytest.mark.parametrize("selection", ["top", "proportional"])
def test_what_is_off_is_left_alone(
    selection: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    back = callback(selection=selection, proxy=Shaken())
    watch = Watch(back)
    lora = model(checkpoints["bert"], dropout=0.1)
    trainer(lora, arguments(tmp_path, max_grad_norm=1.0), back, watch).train()
    assert watch.seen > 10
    ranks = [row["ranks"] for row in back.searches]
    assert len({json.dumps(row) for row in ranks}) > 1
    budget = sum(a.unit_cost * BUDGET for a in back._sites.values())
    assert all(row["parameters"] == budget for row in back.searches)


def test_it_takes_up_again_where_it_stood(checkpoints: dict[str, Path]) -> None:
    lora = model(checkpoints["bert"])
    optimizer = torch.optim.AdamW([p for p in lora.parameters() if p.requires_grad], lr=0.1)
    sites = PeftSites(lora, optimizer)
    adapter = sites[hl.Site(1, "v")]
    lora(**default_data_collator(rows())).loss.backward()
    optimizer.step()
    trained_b = adapter.B.detach().clone()
    assert trained_b.any()
    for rank in (3, 1, 0, 2, 0, 4):
        adapter.rank = rank
        assert torch.equal(adapter.matrices[1], trained_b)
        assert torch.equal(adapter.B[:, :rank], trained_b[:, :rank])
        assert not adapter.B[:, rank:].any()
    assert not optimizer.param_groups[0][STATE]["kept"]


# ---- what a Trainer saves


def test_a_checkpoint_loads_as_it_was_trained(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    seen = {}

    class Remember(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen[state.global_step] = logits(kwargs["model"])
            kwargs["model"].train()

    back = callback()
    lora = model(checkpoints["bert"])
    trainer(lora, arguments(tmp_path, save_strategy="epoch"), back, Remember()).train()
    assert sorted(seen) == [STEPS, 2 * STEPS, 3 * STEPS]
    for step, expected in seen.items():
        base = model(checkpoints["bert"]).unload()
        saved = PeftModel.from_pretrained(base, tmp_path / f"checkpoint-{step}")
        assert (logits(saved) - expected).abs().max() <= 1e-6
    assert (logits(lora) - seen[3 * STEPS]).abs().max() == 0

    back.to_peft(tmp_path / "small")
    small = PeftModel.from_pretrained(model(checkpoints["bert"]).unload(), tmp_path / "small")
    assert (logits(small) - logits(lora)).abs().max() <= 1e-6
    on = sum(rank > 0 for rank in back.searches[-1]["ranks"].values())
    names = [
        name
        for name in load_file(tmp_path / "small" / "adapter_model.safetensors")
        if "lora" in name
    ]
    assert 0 < len(names) <= 2 * on < 12


OFTEN = hl.strategies.Dynamic(searches_per_epoch=3)
LATE = hl.strategies.Warmup(warmup=0.4)
PRUNED = hl.strategies.Pruning(warmup=0.2, until=0.8, pruning_searches=6)


@pytest.mark.parametrize(
    ("strategy", "cut", "searches"),
    [
        pytest.param(OFTEN, STEPS, 9, marks=pytest.mark.slow),
        (OFTEN, STEPS + 3, 9),
        pytest.param(LATE, 3, 1, marks=pytest.mark.slow),  # before its search
        pytest.param(PRUNED, 3, 6, marks=pytest.mark.slow),
        (PRUNED, STEPS + 3, 6),
    ],
)
def test_a_training_that_is_resumed_ends_the_same(
    strategy: hl.strategies.Strategy,
    cut: int,
    searches: int,
    checkpoints: dict[str, Path],
    tmp_path: Path,
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 3}
    whole, whole_back = (
        model(checkpoints["bert"], dropout=0.1),
        callback(proxy="constant", strategy=strategy),
    )
    trainer(whole, arguments(tmp_path / "whole", max_grad_norm=1.0), whole_back).train()

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == cut

    first = model(checkpoints["bert"], dropout=0.1)
    trainer(
        first,
        arguments(tmp_path / "parts", max_grad_norm=1.0, **saving),
        callback(proxy="constant", strategy=strategy),
        Stop(),
    ).train()
    again, back = (
        model(checkpoints["bert"], dropout=0.1),
        callback(proxy="constant", strategy=strategy),
    )
    trainer(again, arguments(tmp_path / "parts", max_grad_norm=1.0, **saving), back).train(
        resume_from_checkpoint=True
    )
    for name, tensor in trained(whole).items():
        assert torch.equal(tensor, trained(again)[name]), name
    alike = ("step", "epoch", "ranks", "scores", "parameters", "tied")
    for row, other in zip(whole_back.searches, back.searches, strict=True):
        assert {key: row[key] for key in alike} == {key: other[key] for key in alike}
    assert len(back.searches) == searches
    lines = (tmp_path / "parts" / "allocations.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [row["step"] for row in back.searches]


def test_until_the_first_search_every_adapter_has_the_starting_rank(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Pruning from r 3 to the budget's r 2; a rank that the adapters cannot have is refused."""
    lora, back = model(checkpoints["bert"]), callback(strategy=PRUNED)

    seen: list[set[int]] = []

    class Ranks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seen.append({int((a.B != 0).any(0).sum()) for a in back._sites.values()})

    trainer(lora, arguments(tmp_path), back, Ranks()).train()
    first = back.searches[0]["step"]
    assert seen[:first] == [{3}] * first
    spent = [row["parameters"] for row in back.searches]
    budget = sum(a.unit_cost * BUDGET for a in back._sites.values())
    assert spent == sorted(spent, reverse=True)
    assert spent[0] > spent[-1] == budget
    wide = callback(strategy=hl.strategies.Pruning(initial=4.0))
    with pytest.raises(
        ModelError, match=r"^LoraConfig\(r=4\): strategy=pruning starts every adapter at rank 8"
    ):
        trainer(model(checkpoints["bert"]), arguments(tmp_path), wide).train()


def test_a_checkpoint_without_ranks_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    args = arguments(tmp_path, num_train_epochs=1, save_strategy="epoch")
    trainer(model(checkpoints["bert"]), args).train()
    with pytest.raises(ModelError, match="the checkpoint of step 6 has no ranks"):
        trainer(model(checkpoints["bert"]), arguments(tmp_path), callback()).train(
            resume_from_checkpoint=True
        )


# ---- what there is to see


def test_searches_are_logged(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    back = callback()
    run = trainer(
        model(checkpoints["bert"]), arguments(tmp_path, gradient_accumulation_steps=2), back
    )
    run.train()
    rows_ = [SEARCH_ROW.validate_json(line) for line in (tmp_path / "allocations.jsonl").open()]
    assert [(row.step, row.epoch) for row in rows_] == [(s, s // 3 + 1) for s in range(9)]
    assert all(row.parameters == 6 * 32 * BUDGET for row in rows_)
    logged = [row for row in run.state.log_history if "heterolora_sites_on" in row]
    assert [row["heterolora_sites_on"] for row in logged] == [3] * 9


def test_without_a_trace_on_the_random_numbers(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """All on, as without it: the searches draw from streams of their own."""
    alone, beside = (model(checkpoints["bert"], dropout=0.1) for _ in range(2))
    args = arguments(tmp_path, num_train_epochs=1)
    trainer(alone, args).train()
    trainer(beside, args, callback(budget_rank=CAPACITY)).train()
    for name, tensor in trained(alone).items():
        assert torch.equal(tensor, trained(beside)[name]), name


def test_a_stream_without_length(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            while True:
                yield from rows()

    back = callback(strategy=hl.strategies.Dynamic(searches_per_epoch=2))
    args = arguments(tmp_path, max_steps=8)
    Trainer(
        model=model(checkpoints["bert"]), args=args, train_dataset=Stream(), callbacks=[back]
    ).train()
    assert [row["step"] for row in back.searches] == [0, 4]


# ---- what cannot be


def test_what_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    def train(lora: nn.Module, **changes: Any) -> None:
        trainer(lora, arguments(tmp_path), callback(**changes)).train()

    path = checkpoints["bert"]
    with pytest.raises(ModelError, match="BertForSequenceClassification: is not a PEFT model"):
        train(model(path).unload())
    with pytest.raises(
        ModelError, match=r"r=4\): must be at least budget_rank=8; for example r=32"
    ):
        train(model(path), budget_rank=8)
    with pytest.raises(ModelError, match="use_dora: ranks can be switched only in plain LoRA"):
        train(model(path, use_dora=True))
    with pytest.raises(ModelError, match="word_embeddings: has an adapter, but is not a known"):
        train(model(path, target_modules=["word_embeddings", "query"]))
    with pytest.raises(ModelError, match=r"pooler\.dense: has an adapter"):
        train(model(path, target_modules=["query", "dense"]))
    for changes, said in (
        ({"bias": "lora_only"}, "bias=lora_only"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({"trainable_token_indices": [4]}, "trainable_token_indices"),
    ):
        with pytest.raises(ModelError, match=f"{said}: ranks can be switched only in plain LoRA"):
            train(model(path, **changes))
    with pytest.raises(ValueError, match="steps cannot be observed"):
        callback(proxy=proxy(source="running"))
    with pytest.raises(ValueError, match="proxy='gradnom'"):
        callback(proxy="gradnom")
    with pytest.raises(ValueError, match="strategy='homogeneous': never searches"):
        callback(strategy="homogeneous")
    with pytest.raises(ModelError, match="training has not started"):
        callback().to_peft(tmp_path)


def test_adapters_that_were_trained_before_go_on(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """An adapter whose B is not zero is switched off as a whole, and comes back as it was."""
    lora = model(checkpoints["bert"], init_lora_weights=False)
    optimizer = torch.optim.AdamW([p for p in lora.parameters() if p.requires_grad], lr=0.1)
    adapter = PeftSites(lora, optimizer)[hl.Site(0, "q")]
    given = adapter.B.detach().clone()
    adapter.rank = 0
    assert not adapter.B.any()
    assert torch.equal(adapter.matrices[1], given)
    optimizer.step()  # which passes over it: there are no gradients
    adapter.rank = CAPACITY
    assert torch.equal(adapter.B, given)
    trainer(lora, arguments(tmp_path), callback(proxy="constant", strategy="static")).train()
    assert sum(not p.any() for n, p in lora.named_parameters() if "lora_B" in n) == 3


@pytest.mark.parametrize(
    ("trained_before", "optim"),
    [
        *[(True, "adamw_torch"), (False, "sgd"), (True, "adafactor")],
        *(
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in [(False, "adamw_torch"), (True, "sgd"), (False, "adafactor")]
        ),
    ],
)
def test_ranks_come_and_go_under_any_optimizer(
    trained_before: bool, optim: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    lora = model(checkpoints["bert"], init_lora_weights=not trained_before)
    back = callback(selection="proportional", proxy=Shaken())
    args = arguments(tmp_path, optim=optim)
    trainer(lora, args, back, Watch(back)).train()
    assert len({json.dumps(row["ranks"]) for row in back.searches}) > 3


def test_a_training_that_was_broken_off_leaves_nothing_behind(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    class Break(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 4:
                raise KeyboardInterrupt

    args = arguments(tmp_path, num_train_epochs=1)
    lora, back = model(checkpoints["bert"]), callback(proxy="constant")
    with pytest.raises(KeyboardInterrupt):
        trainer(lora, args, back, Break()).train()
    again = callback(budget_rank=CAPACITY)
    for used in (back, again):  # the same one, and then all on
        trainer(lora, args, used).train()
    before = trained(lora)
    trainer(lora, args, callback(budget_rank=CAPACITY)).train()
    for name, tensor in trained(lora).items():
        assert "lora_B" not in name or not torch.equal(tensor, before[name]), name


def test_a_second_training_goes_on_from_the_first(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """A Trainer keeps its optimizer, and with it what is off."""
    lora, back = model(checkpoints["bert"]), callback(proxy="constant")
    run = trainer(lora, arguments(tmp_path), back)
    run.train()
    whole = {site: adapter.matrices[1] for site, adapter in back._sites.items()}
    assert any(not torch.equal(b, back._sites[site].B) for site, b in whole.items())

    class Look(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 0:
                for site, adapter in back._sites.items():
                    assert torch.equal(adapter.matrices[1], whole[site])

    run.add_callback(Look())
    run.train()


def test_a_stream_with_a_length_and_batches_of_the_trainer(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    sizes = []

    class Stream(IterableDataset):
        def __len__(self) -> int:
            return ROWS

        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield from rows()

    class Sizes(hl.proxies.GradNorm):
        def scores(self, adapters: Any, batches: Any, *args: Any) -> dict[hl.Site, float]:
            batches = list(batches)
            sizes.extend(len(batch["labels"]) for batch in batches)
            return super().scores(adapters, batches, *args)

    args = arguments(tmp_path, per_device_train_batch_size=4)
    given = {"model": model(checkpoints["bert"]), "args": args, "train_dataset": Stream()}
    Trainer(**given, callbacks=[callback(proxy=Sizes(), strategy="static")]).train()
    assert sizes == [4] * (ROWS // 4)


@dataclass(frozen=True)
class Own(hl.proxies.Proxy):
    """Scores that every process draws for itself."""

    def scores(self, adapters: Any, *_: Any) -> dict[hl.Site, float]:
        return {site: random.Random(f"{os.environ['RANK']} {site}").random() for site in adapters}


def train_beside(rank: str, port: int, path: Path, out: Path) -> None:
    """The process `rank` of two; it leaves its ranks and weights."""
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
    os.environ |= {**here, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    lora, back = model(path), callback(proxy=Own(), selection="proportional")
    args = arguments(out, num_train_epochs=1, per_device_train_batch_size=4)
    Trainer(model=lora, args=args, train_dataset=rows(), callbacks=[back]).train()
    sums = {n: p.double().sum().item() for n, p in lora.named_parameters() if "lora_" in n}
    found = {"ranks": [row["ranks"] for row in back.searches], "sums": sums}
    (out / f"{rank}.json").write_text(json.dumps(found))


def train_two(path: Path, out: Path) -> int:
    """Fork both from this process, which has imported everything; how many failed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=train_beside, args=(rank, port, path, out)) for rank in ("0", "1")
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return sum(process.exitcode != 0 for process in processes)


@pytest.mark.slow
def test_two_processes_train_the_same_adapters(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Even where they disagree on the scores: the first decides."""
    tests = Path(__file__).parent
    paths = f"Path({str(checkpoints['bert'])!r}), Path({str(tmp_path)!r})"
    script = f"from pathlib import Path; import test_callback as t; exit(t.train_two({paths}))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tests.parent}:{tests}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert len(first["ranks"]) == 3
