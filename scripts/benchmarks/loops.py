"""Training steps with the library and without it."""

import math
import random
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn

import heterolora as hl
from benchmarks.setup import BATCH_SIZE, LEARNING_RATE, LORA, PADDED, RANK, Setup
from benchmarks.subjects import Subject
from benchmarks.turns import now_on
from heterolora.architectures.family import family_of
from heterolora.losses import Autocast
from heterolora.tasks.encoded import Encoded

TASK = cast(Any, SimpleNamespace(loss=hl.default_loss))
"""All that an engine needs of a task in order to train."""

PEFT_TRAINER = "PEFT + Trainer"
PEFT_LOOP = "PEFT, bare loop"
PEFT_PADDED = f"PEFT, padded to {PADDED}, fp32"
OURS = "this library"
OURS_SHORTCUTS = "this library, with shortcuts"
OURS_QUARTER = "this library, a quarter of the sites"
GEMM = "matrix products alone"

Step = Callable[[Any], Tensor]
"""One optimizer step on a batch; its loss."""


def with_peft(model: Any) -> Any:
    """PEFT's LoRA at q and v of a classifier, in place."""
    from peft import LoraConfig, TaskType, get_peft_model

    projections = family_of(model).projections
    return get_peft_model(
        model,
        LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=RANK,
            lora_alpha=16,
            lora_dropout=0.0,
            target_modules=[projections[role].split(".")[-1] for role in LORA],
        ),
    )


def trainable(model: Any) -> list[nn.Parameter]:
    """The parameters that are trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def bare_step(model: Any, autocast: Autocast) -> Step:
    """A step as one writes it: forward, backward, AdamW over what is trainable."""
    optimizer = torch.optim.AdamW(trainable(model), lr=LEARNING_RATE, weight_decay=0.01)
    model.train()

    def step(batch: Any) -> Tensor:
        with autocast():
            loss: Tensor = model(**batch).loss
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.detach()

    return step


def engine_of(adapters: hl.Adapters, autocast: Autocast, **options: Any) -> hl.LocalEngine:
    """The library's engine with its AdamW."""
    return hl.LocalEngine(adapters, TASK, hl.adamw(adapters, LEARNING_RATE), autocast, **options)


def switched_on(adapters: hl.Adapters) -> list[nn.Parameter]:
    """A and B of the sites that are on, and the head."""
    matrices = [
        matrix for site in adapters.enabled for matrix in (adapters[site].A, adapters[site].B)
    ]
    return [*matrices, *adapters.head.values()]


def quarter(adapters: hl.Adapters) -> dict[hl.Site, int]:
    """A random quarter of the sites at full rank, the same ones every time."""
    chosen = random.Random(0).sample(adapters.sites, max(1, len(adapters) // 4))
    return {site: adapters[site].capacity for site in chosen}


def check_gradients(name: str, parameters: Iterable[nn.Parameter]) -> None:
    """See that every gradient is there, finite and not zero.

    Raises:
        RuntimeError: if one is not.
    """
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None or not bool(gradient.isfinite().all()) or not bool(gradient.any()):
            raise RuntimeError(f"{name}: a gradient is missing, zero or not finite")


def check_losses(name: str, losses: Sequence[float]) -> None:
    """See that there are losses, and all finite.

    Raises:
        RuntimeError: if not.
    """
    if not losses or not all(map(math.isfinite, losses)):
        raise RuntimeError(f"{name}: the losses are {list(losses)}")


@dataclass
class Loop:
    """A competitor that makes a step on every batch of a split; it pads them as it goes.

    Attributes:
        name: what the table calls it.
        step: makes a step.
        split: the examples.
        trained: gives the parameters that must have got a gradient.
    """

    name: str
    step: Step
    split: Encoded
    trained: Callable[[], Iterable[nn.Parameter]]
    _losses: list[Tensor] = field(default_factory=list, init=False)

    def warm_up(self) -> None:
        """Two steps."""
        for batch in self.split.in_order(BATCH_SIZE, 2 * BATCH_SIZE):
            self.step(batch)

    def run(self) -> float:
        """Seconds for all batches."""
        begun = now_on(self.split.device)
        self._losses = [self.step(batch) for batch in self.split.in_order(BATCH_SIZE)]
        return now_on(self.split.device) - begun

    def check(self) -> None:
        """Losses, and the gradients of the last step."""
        check_losses(self.name, torch.stack(self._losses).tolist())
        check_gradients(self.name, self.trained())


class TrainerLoop:
    """A competitor: transformers' Trainer over the same batches, in the same order.

    The clock runs from the end of a first step on the first batch, so that neither starting the
    Trainer nor creating an optimizer is counted, to the end of the last.
    """

    name = PEFT_TRAINER

    def __init__(self, model: Any, subject: Subject, setup: Setup) -> None:
        features = subject.split.features
        rows = zip(*features.values(), strict=True)
        examples = [dict(zip(features, map(Tensor.tolist, row), strict=True)) for row in rows]
        self._examples = [*examples[:BATCH_SIZE], *examples]
        self._model = model
        self.collate = transformers.DataCollatorWithPadding(subject.tokenizer)
        self._setup = setup
        self._loss = math.nan
        self._clock: Any = None

    def warm_up(self) -> None:
        """A round."""
        self.run()

    def run(self) -> float:
        """Seconds for all batches but the one before the clock runs."""
        self._clock = trainer_clock(self._setup.device)
        with tempfile.TemporaryDirectory() as folder:  # it must have one
            trainer = transformers.Trainer(
                model=self._model,
                args=self._arguments(folder),
                train_dataset=self._examples,
                data_collator=self.collate,
                callbacks=[self._clock],
            )
            trainer.remove_callback(transformers.PrinterCallback)
            self._loss = trainer.train().training_loss
        return float(self._clock.ended - self._clock.begun)

    def check(self) -> None:
        """The mean loss, the gradients of the step before the clock runs, the number of steps."""
        check_losses(self.name, [self._loss])
        if self._clock.error is not None:
            raise self._clock.error
        if self._clock.steps * BATCH_SIZE != len(self._examples):
            raise RuntimeError(f"{self.name}: made {self._clock.steps} steps")

    def _arguments(self, folder: str) -> Any:
        """As lean as the Trainer can be: nothing is logged, evaluated, saved or clipped."""
        device = self._setup.device.type
        return transformers.TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=LEARNING_RATE,
            weight_decay=0.01,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            train_sampling_strategy="sequential",
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=["labels"],
            dataloader_pin_memory=device == "cuda",
            use_cpu=device == "cpu",
            bf16=self._setup.precision == "bf16",
        )


def trainer_clock(device: torch.device) -> Any:
    """A callback of the Trainer: `begun` and `ended`, `steps`, and the `error` of gradients."""

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        begun = ended = 0.0
        steps = 0
        error: RuntimeError | None = None

        def on_pre_optimizer_step(
            self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any
        ) -> None:
            if state.global_step == 0:
                try:
                    check_gradients(PEFT_TRAINER, trainable(model))
                except RuntimeError as error:
                    self.error = error

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.steps = state.global_step
            if state.global_step == 1:
                self.begun = now_on(device)
            elif state.global_step == state.max_steps:
                self.ended = now_on(device)

    return Clock()
