"""Rank allocation in a user's own `transformers.Trainer`, on a PEFT LoRA model."""

import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch.utils.data import IterableDataset
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from heterolora.adapters.freezing import freeze_disabled
from heterolora.allocation import Pool, Selection, homogeneous_budget
from heterolora.errors import ModelError
from heterolora.files import write_atomically
from heterolora.integrations.sites import STATE, PeftSites, write_ranks
from heterolora.integrations.suggest import made
from heterolora.losses import Batch, Loss, usual_loss
from heterolora.proxies import Proxy
from heterolora.seeding import Stream
from heterolora.sites import Site
from heterolora.strategies import Search, Strategy

Row = dict[str, Any]


class HeteroLoRACallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Switches the LoRA adapters of a Trainer's PEFT model on and off, within a budget.

    `LoraConfig(r=..., target_modules=[...])` determines where adapters can be and how many ranks
    each can have; at the steps of its strategy, the callback scores them all and switches the best
    ones on. An adapter that is off adds nothing, gets no update, and continues from its old weights
    when it is switched on again. The model remains an ordinary `PeftModel`: at any time, what the
    Trainer saves loads with the same logits, and training can resume from a checkpoint. Works with
    `SFTTrainer` as well, but not with DeepSpeed or FSDP.

    Every search adds a line to `allocations.jsonl` in the Trainer's `output_dir`.

    Args:
        budget_rank: sets the budget to that of LoRA with this rank at every adapter.
        proxy: scores the adapters: `gradnorm`, `snip`, `fisher`, `gora`, `eva`, ..., `constant`
            (those in docs/configuration.md), or an object from `heterolora.proxies`.
        selection: how ranks follow from scores: `top`, `proportional`, `waterfill`, or an object
            from `heterolora.selection`.
        strategy: when to search: `dynamic` (five times an epoch), `static` (before training),
            `warmup`, `pruning`, or an object from `heterolora.strategies`.
        loss: a function of the model's output and a batch that returns the sum of the losses and
            their number; the loss that Transformers uses for the model if None.

    Attributes:
        searches: the results of this training's searches, one row each.

    Raises:
        ValueError: if a setting does not exist, or cannot be used in a Trainer.
    """

    def __init__(
        self,
        budget_rank: int = 2,
        proxy: str | Proxy = "gradnorm",
        selection: str | Selection = "top",
        strategy: str | Strategy = "dynamic",
        loss: Loss | None = None,
    ) -> None:
        self._budget_rank = budget_rank
        self._proxy: Proxy = made("proxy", proxy, "heterolora.proxies")
        self._selection: Selection = made("selection", selection, "heterolora.allocation.selection")
        self._strategy: Strategy = made("strategy", strategy, "heterolora.strategies")
        self._loss = loss
        if self._proxy.observes:
            raise ValueError(
                f"proxy={self._proxy.name!r}: scores training steps, but a Trainer's steps cannot "
                "be observed; choose a proxy that scores a sample, such as 'snip' or "
                "GradNorm(source='probe')"
            )
        if not self._strategy.searches:
            raise ValueError(
                f"strategy={self._strategy.name!r}: never searches; choose dynamic or static"
            )
        self._model: Any = None
        self.searches: list[Row] = []
        self._undo: list[Any] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Find the adapters, and restore the ranks if training resumes from a checkpoint.

        Raises:
            ModelError: if the model is not a PEFT model with plain LoRA, its r is below the
                budget's rank or the rank to start at, or its checkpoint has no ranks.
        """
        self._release()  # hooks of a training that did not finish
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        self._model, self._optimizer = kwargs["model"], optimizer
        self._sites = PeftSites(self._model, optimizer, args.seed)
        smallest = min(self._sites.capacities.values())
        if smallest < self._budget_rank:
            raise ModelError(
                f"LoraConfig(r={smallest}): must be at least budget_rank={self._budget_rank}; for "
                f"example r={4 * self._budget_rank}, with which a quarter of the adapters are on"
            )
        budget = homogeneous_budget(
            self._sites.unit_costs, dict.fromkeys(self._sites, self._budget_rank)
        )
        self._search = Search(
            self._sites,
            self._proxy,
            _Sample(kwargs["train_dataloader"], args.per_device_train_batch_size, args.seed),
            [Pool(frozenset(self._sites), budget)],
            self._selection,
            self._loss or usual_loss(self._model.get_base_model()),
        )
        self._steps_per_epoch = steps_per_epoch(args, state, kwargs["train_dataloader"])
        self._log = Path(args.output_dir) / "allocations.jsonl"
        self.searches = []
        before = optimizer.param_groups[0].get(STATE, {})
        if "ranks" in before:  # from a checkpoint, or an earlier training with this optimizer
            self._sites.resume(before["ranks"])
        if "ranks" in before and state.global_step:
            self._search.load_state_dict(before["search"])
            self.searches = [row for row in _rows(self._log) if row["step"] < state.global_step]
        elif state.global_step:
            raise ModelError(
                f"the checkpoint of step {state.global_step} has no ranks: it was saved without "
                "HeteroLoRACallback, or with save_only_model=True; start without resuming from it"
            )
        elif "ranks" not in before and self._strategy.start is not None:
            self._begin(round(self._strategy.start * self._budget_rank), smallest)
        self._undo = freeze_disabled(optimizer, self._sites)
        for adapter in self._sites.values():
            self._undo.append(adapter.follow())

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Search, if the strategy says so for this step."""
        epoch, step = divmod(state.global_step, self._steps_per_epoch)
        if step not in self._strategy.search_steps(epoch, self._steps_per_epoch, state.max_steps):
            return
        started = time.perf_counter()
        share = self._strategy.share(state.global_step / state.max_steps)
        found = _of_the_first(self._search(share))
        self._sites.apply({Site.parse(name): rank for name, rank in found["ranks"].items()})
        seconds = time.perf_counter() - started
        row = {"step": state.global_step, "epoch": epoch + 1, **found, "seconds": seconds}
        self.searches.append(row)
        ranks = found["ranks"]
        self._keep(ranks)
        state.log_history.append(
            {
                "step": state.global_step,
                "epoch": state.epoch,
                "heterolora_parameters": found["parameters"],
                "heterolora_sites_on": sum(rank > 0 for rank in ranks.values()),
            }
        )
        if state.is_world_process_zero:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._log, "".join(json.dumps(one) + "\n" for one in self.searches))

    def _begin(self, rank: int, smallest: int) -> None:
        """Switch every adapter on at the rank that it has before the first search."""
        if rank > smallest:
            raise ModelError(
                f"LoraConfig(r={smallest}): strategy={self._strategy.name} starts every adapter "
                f"at rank {rank}; raise r to {4 * self._budget_rank}"
            )
        self._sites.apply(dict.fromkeys(self._sites, rank))
        self._keep({str(site): rank for site in self._sites})

    def _keep(self, ranks: dict[str, int]) -> None:
        """Store ranks and search state in the optimizer, and so in every checkpoint."""
        search = self._search.state_dict()
        self._optimizer.param_groups[0][STATE] |= {"ranks": ranks, "search": search}

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model as PEFT made it, with the trained weights."""
        self._release()

    def _release(self) -> None:
        for handle in self._undo:
            handle.remove()
        self._undo = []

    def to_peft(self, folder: str | Path, card: str | None = None) -> None:
        """Write the adapter without the ranks that are off: smaller, with the same logits.

        Each site that is on has its rank in `rank_pattern` and its alpha in `alpha_pattern`.

        Args:
            folder: the folder to write to.
            card: the content of its `README.md`; none is written if None.

        Raises:
            ModelError: if training has not started, or no rank is on.
            RecordError: if it cannot be written, for example because the disk is full.
        """
        if self._model is None:
            raise ModelError("training has not started, so there is no adapter to save")
        write_ranks(self._model, folder, card)


def steps_per_epoch(args: TrainingArguments, state: TrainerState, loader: Any) -> int:
    """Return the optimizer steps in an epoch; for an endless stream, those of all training."""
    try:
        steps = math.ceil(len(loader) / args.gradient_accumulation_steps)
    except TypeError:
        steps = state.max_steps
    return max(int(steps), 1)


class _Sample:
    """The first examples of a Trainer's dataset, in order, batched by its collator."""

    def __init__(self, loader: Any, most: int, seed: int) -> None:
        self._loader, self._most, self._seed = loader, most, seed
        self._batches: dict[tuple[int, int | None], list[Batch]] = {}

    def in_order(self, size: int, count: int | None = None) -> Iterator[Batch]:
        """Yield the first `count` examples, `size` at a time but no more than in training.

        They are collated only once.
        """
        size = min(size, self._most)
        key = (size, count)
        if key not in self._batches:
            self._batches[key] = list(self._collated(size, count))
        yield from self._batches[key]

    def _collated(self, size: int, count: int | None) -> Iterator[Batch]:
        rows: Any = self._loader.dataset
        if not isinstance(rows, IterableDataset):
            rows = (self._loader.dataset[index] for index in range(len(rows)))
        examples = list(itertools.islice(rows, count))
        with Stream(self._seed, "sample"):  # collators that mask tokens draw random numbers
            for start in range(0, len(examples), size):
                batch: Batch = self._loader.collate_fn(examples[start : start + size])
                yield batch


def _of_the_first(found: Row) -> Row:
    """Return the first process's result in every process: all must train the same adapters."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return found
    held = [found]
    torch.distributed.broadcast_object_list(held, src=0)
    return held[0]


def _rows(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
