"""The schema of a run's configuration, section by section.

The sections of proxies, selections, strategies, tasks and trackers are derived from their classes
(`heterolora.harness.config.plugins`), so that adding one is one file and one YAML.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NewType, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from heterolora.harness.config.embedded import PLANTED
from heterolora.harness.config.values import (
    DEVICE,
    NAMES,
    HeldOut,
    Name,
    Number,
    Place,
    PositiveInt,
    PositiveNumber,
    Rank,
    Split,
    Text,
    Whole,
)
from heterolora.settings import Settings, settable
from heterolora.sites import Kind, LoraRole, ShortcutRole

if TYPE_CHECKING:
    from heterolora.allocation.selection import Selection
    from heterolora.methods import Method
    from heterolora.proxies import Proxy
    from heterolora.strategies import Strategy
    from heterolora.tasks import Task
    from heterolora.training.optimizers import Optimizer

Device = NewType("Device", str)
"""The name of a device; a type of its own, by which rules ask for it."""
Precision = Literal["auto", "fp32", "bf16"]
"""The number format of forward passes."""
Engine = Literal["local", "distributed", "sharded"]
"""What trains: one process; several, each with the model; or several, each with a part of it."""


class Section(BaseModel):
    """A frozen part of the configuration; a key it does not have is an error."""

    # The text under a field is its description, in `--help` too.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelConfig(Section):
    """The checkpoint, from the hub or a directory, and the precision of its frozen weights."""

    name: Place = Field(examples=["facebook/opt-350m"])
    """Name on the Hugging Face Hub; with path, a name for the records."""
    path: Place | None = Field(examples=["path/to/model"])
    """Directory of a checkpoint in Hugging Face format, instead of the hub."""
    revision: Text | None = Field(examples=["main"])
    """Branch, tag or commit on the hub."""
    dtype: Literal["fp32", "bf16"] = Field(default="fp32", examples=["bf16"])
    """Number format of the frozen weights; adapters and head are always fp32."""
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = Field(
        default=None, examples=["sdpa"]
    )
    """Attention implementation; null: the default of Transformers."""
    quantization: Literal["8bit", "4bit"] | None = Field(default=None, examples=["4bit"])
    """Quantize the frozen weights with bitsandbytes, on an NVIDIA GPU."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        """A directory without a name is called by its own."""
        if not isinstance(given, dict) or given.get("name") is not None:
            return given
        path = given.get("path")
        return {**given, "name": Path(path).name} if isinstance(path, str) else given

    @property
    def where(self) -> str:
        """The key that says which checkpoint, and its value."""
        return f"model.name={self.name}" if self.path is None else f"model.path={self.path}"


class SearchSpaceConfig(Section):
    """Where adapters may be: on linear projections (LoRA sites) and on shortcuts."""

    projections: tuple[LoraRole, ...] = Field(examples=["[q,v]"])
    """Linear layers that get a LoRA site."""
    shortcuts: tuple[ShortcutRole, ...] = Field(examples=["[res1,res2,in,cut]"])
    """Shortcut connections that get a site."""
    lora_alpha: Number = Field(gt=0, examples=[16])
    """Alpha of LoRA sites."""
    shortcut_alpha: Number = Field(gt=0, examples=[4])
    """Alpha of shortcut sites."""
    scaling: Literal["alpha_over_rank", "alpha_over_budget_rank", "rslora"] = Field(
        examples=["alpha_over_rank"]
    )
    """What alpha is divided by: the rank, the budget's rank, or the square root of the rank."""
    pool: Literal["combined", "separated"] = Field(examples=["combined"])
    """Whether LoRA and shortcut sites share one budget, or each kind has its own."""
    renormalize: Literal["always", "enabled"] = Field(examples=["always"])
    """Add a post-norm block's second norm always, or only if the cross-layer shortcut is on."""
    exclude: tuple[str, ...] = Field(default=(), examples=["[layers.3.q]"])
    """Sites that get no adapter."""

    @field_validator("projections", "shortcuts")
    @classmethod
    def _each_once(cls, roles: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if len(set(roles)) != len(roles):
            raise ValueError(f"must name each {str(info.field_name).removesuffix('s')} once")
        return roles

    @field_validator("exclude")
    @classmethod
    def _in_one_order(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("must name each site once")
        return tuple(sorted(names))

    def roles(self) -> dict[Kind, tuple[str, ...]]:
        """The roles of each kind of site."""
        return {"lora": self.projections, "shortcut": self.shortcuts}


class RankBudgetConfig(Section):
    """The budget: as many adapter parameters as with every site at these ranks."""

    lora_rank: Rank = Field(examples=[2])
    """Rank of every LoRA site that defines the budget; whole, or below 1 such as 0.25."""
    shortcut_rank: Rank = Field(examples=[2])
    """Rank of every shortcut site that defines the budget."""

    def ranks(self) -> dict[Kind, float]:
        """The rank of each kind of site; below 1 where not every site can be on."""
        return {"lora": self.lora_rank, "shortcut": self.shortcut_rank}


class TrainingConfig(Section):
    """Length of training, batches, memory and speed, and how often the loss is logged."""

    epochs: PositiveInt = Field(le=1_000_000, examples=[20])
    """Passes over the training split."""
    batch_size: PositiveInt = Field(examples=[8])
    """Examples per optimizer step."""
    log_every: PositiveInt = Field(examples=[10])
    """Log the loss every this many optimizer steps."""
    limit_examples: PositiveInt | None = Field(default=None, examples=[4000])
    """Train on this many random examples, the same for all seeds."""
    micro_batch_size: PositiveInt | None = Field(default=None, examples=[4])
    """Maximum number of examples per forward pass; larger batches accumulate gradients."""
    max_steps: PositiveInt | None = Field(default=None, examples=[1000])
    """Stop after this many optimizer steps."""
    patience: PositiveInt | None = Field(default=None, examples=[3])
    """Stop after this many epochs without improvement."""
    max_grad_norm: PositiveNumber | None = Field(default=None, examples=[1.0])
    """Clip gradients to this global L2 norm."""
    gradient_checkpointing: bool = Field(default=False, strict=True, examples=["true"])
    """Recompute activations in the backward pass to save memory."""
    group_by_length: bool = Field(default=False, strict=True, examples=["true"])
    """Batch examples of similar length."""
    compile: bool = Field(default=False, strict=True, examples=["true"])
    """Use torch.compile for training steps."""
    tf32: bool = Field(default=False, strict=True, examples=["true"])
    """Allow TF32 matrix products on NVIDIA GPUs."""


class EvaluationConfig(Section):
    """Evaluation after every epoch, on the validation split or on two halves of it.

    `test` names a split on which the best epoch's weights are evaluated once, after training.
    """

    batch_size: PositiveInt = Field(examples=[64])
    """Examples per forward pass."""
    split: Literal["full", "halves"] = Field(examples=["halves"])
    """Use the full validation split, or select the best epoch on one half and report the other."""
    test: Split | None = Field(default=None, examples=["test"])
    """Labeled split on which to evaluate the best epoch once, after training."""


class CheckpointConfig(Section):
    """How often a run is saved, besides at the end of every epoch and on stop signals."""

    every_minutes: Number = Field(gt=0, examples=[10])
    """Minutes between checkpoints within an epoch."""


class PluginConfig(Section):
    """The configuration section of a `Settings` class, of which `build` makes an object.

    Attributes:
        settings: the class.
    """

    settings: ClassVar[type[Settings] | None] = None

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        self.build()  # the class has checks of its own
        return self

    def build(self) -> Any:
        """The object that does what the section says."""
        if self.settings is None:
            return self
        names = [field.name for field in settable(self.settings)]
        return self.settings(**{name: getattr(self, name) for name in names})


class MethodConfig(PluginConfig):
    """A method, by the name of its file in `heterolora/methods`; its name is what it is called."""

    name: Name = Field(examples=["heterolora"])
    """Name of the method in records."""
    kind: str
    """File in heterolora/methods."""

    def build(self) -> "Method":
        """The method."""
        made: Method = super().build()
        return made


class ProxyConfig(PluginConfig):
    """A proxy, by the name of its file in `heterolora/proxies`, and its settings."""

    name: str
    """File in heterolora/proxies."""

    def build(self) -> "Proxy":
        """The proxy."""
        made: Proxy = super().build()
        return made


class SelectionConfig(PluginConfig):
    """A selection, by the name of its file in `heterolora/allocation/selection`."""

    name: str
    """File in heterolora/allocation/selection."""

    def build(self) -> "Selection":
        """The selection."""
        made: Selection = super().build()
        return made


class StrategyConfig(PluginConfig):
    """A strategy, by the name of its file in `heterolora/strategies`; the share that is on."""

    name: str
    """File in heterolora/strategies."""
    enable_rate: Number = Field(default=0.25, gt=0, le=1, examples=[0.25])
    """Fraction of the sites that are on, at their maximum rank: the budget's / enable_rate."""

    def build(self) -> "Strategy":
        """The strategy."""
        made: Strategy = super().build()
        return made


class TaskConfig(PluginConfig):
    """A task, by the name of its kind's file in `heterolora/tasks`, and where its data is.

    Without a validation split, `held_out` examples of the training split are evaluated instead.
    """

    name: Name = Field(examples=["mrpc"])
    """Name of the task in records."""
    source: Place = Field(examples=["nyu-mll/glue"])
    """Dataset on the Hugging Face Hub; with path, a name for the records."""
    subset: Text | None = Field(default=None, examples=["mrpc"])
    """Configuration (subset) of the dataset on the hub."""
    path: Place | None = Field(default=None, examples=["reviews.csv"])
    """File of examples, or folder with one file per split, instead of the hub."""
    revision: Text | None = Field(default=None, examples=["main"])
    """Branch, tag or commit on the hub."""
    train_split: Split = Field(default="train", examples=["train"])
    """Split to train on."""
    validation_split: Split | None = Field(default="validation", examples=["validation"])
    """Split to evaluate on after each epoch."""
    held_out: HeldOut | None = Field(default=None, examples=[2000])
    """Number or fraction of training examples to evaluate on, without a validation split."""
    planting: Annotated[Whole, Field(ge=0)] | None = Field(default=None, examples=[0])
    """Seed that draws the sites of the planted task."""
    kind: str
    """File in heterolora/tasks."""
    metrics: tuple[str, ...]
    """Metrics to report; the first one selects the best epoch."""

    @property
    def planted(self) -> bool:
        """Whether its right sites are known, by `planting`."""
        return self.path is None and self.source == PLANTED

    def build(self) -> "Task":
        """The task."""
        made: Task = super().build()
        return made


class TrackerConfig(PluginConfig):
    """Where metrics go besides the record, by its file in `heterolora/harness/loggers`."""


class OptimizerConfig(PluginConfig):
    """An optimizer, by the name of its kind's file in `heterolora/training/optimizers`."""

    name: Name = Field(examples=["adamw"])
    """Name of the optimizer in records."""
    kind: str
    """File in heterolora/training/optimizers."""
    learning_rate: Number = Field(gt=0, examples=[2e-4])
    """Peak learning rate."""

    def build(self) -> "Optimizer":
        """The settings of the optimizer, which make one."""
        made: Optimizer = super().build()
        return made


class SchedulerConfig(Section):
    """Learning rate schedule: warm-up and decay."""

    name: Literal["constant", "linear", "cosine"] = Field(default="constant", examples=["linear"])
    """Shape of the decay after the warm-up."""
    warmup: Number = Field(default=0.0, ge=0, lt=1, examples=[0.1])
    """Fraction of all steps over which the learning rate rises from 0."""


class Config(Section):
    """One run, completely: what `config.yaml` in its directory holds.

    `proxy` and `selection` are None under a strategy that never searches, and so is every strategy
    of a method other than this project's. `table` is an experiment's, for reports alone.
    """

    name: str = Field(pattern=NAMES, examples=["main"])
    """Name of the experiment, and of its folder in output."""
    seed: int = Field(strict=True, ge=0, examples=[0])
    """Seed of all randomness: initialization, data order, dropout, selection."""
    device: Device = Field(pattern=DEVICE, examples=["auto"])
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps`; auto uses a GPU if there is one."""
    precision: Precision = Field(examples=["auto"])
    """Number format of forward passes; auto: bf16 on GPUs that support it, else fp32."""
    engine: Engine = Field(default="local", examples=["distributed"])
    """One process (local), or several that share a batch; sharded also splits the model."""
    output: Place = Field(examples=["outputs"])
    """Folder for all runs."""
    rerun: bool = Field(strict=True, examples=["true"])
    """Run a finished run again, erasing its record."""
    offline: bool = Field(strict=True, examples=["true"])
    """Never use the network."""
    model: ModelConfig
    task: SerializeAsAny[TaskConfig]
    method: SerializeAsAny[MethodConfig]
    search_space: SearchSpaceConfig
    proxy: SerializeAsAny[ProxyConfig] | None
    selection: SerializeAsAny[SelectionConfig] | None
    strategy: SerializeAsAny[StrategyConfig]
    rank_budget: RankBudgetConfig
    optimizer: SerializeAsAny[OptimizerConfig]
    scheduler: SchedulerConfig = SchedulerConfig()
    training: TrainingConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    tracking: dict[str, SerializeAsAny[TrackerConfig]]
    importance: dict[str, SerializeAsAny[ProxyConfig]]
    runs_per_job: PositiveInt = Field(examples=[3])
    """Number of runs of a sweep that one job makes, one after another."""
    table: Any = Field(default=None, exclude=True)

    def resolved(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return self.model_dump(mode="json")
