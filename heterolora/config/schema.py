"""The schema of a run's configuration, section by section.

The sections of proxies, selections, strategies, tasks and trackers are derived from their classes
(`heterolora.config.plugins`), so that adding one is one file and one YAML.
"""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NewType, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from heterolora.config.embedded import PLANTED
from heterolora.settings import Settings, settable
from heterolora.sites import Kind, LoraRole, ShortcutRole

if TYPE_CHECKING:
    from heterolora.allocation.selection import Selection
    from heterolora.methods import Method
    from heterolora.proxies import Proxy
    from heterolora.strategies import Strategy
    from heterolora.tasks import Task
    from heterolora.training.optimizers import Optimizer

PositiveInt = Annotated[int, Field(strict=True, gt=0)]


def _rank(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a valid integer, or a part of a rank between 0 and 1")
    if value < 0:
        raise ValueError("must be greater than or equal to 0")
    if isinstance(value, float) and not 0 < value < 1:
        raise ValueError("must be a valid integer, or a part of a rank between 0 and 1")
    return value


Rank = Annotated[int | float, PlainValidator(_rank)]
"""A whole number, or a part of one rank for each site; zero for a kind of site that the search
space does not have."""
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite number; `true` is none."""
PathPart = r"[A-Za-z0-9][\w.-]*"
"""A name that can be a folder, and cannot lead out of one."""
PositiveNumber = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]
Device = NewType("Device", str)
"""The name of a device; a type of its own, by which rules ask for it."""
Precision = Literal["auto", "fp32", "bf16"]
"""The number format of forward passes."""


Engine = Literal["local", "distributed", "sharded"]
"""What trains: one process; several, each with the model; or several, each with a part of it."""


class Section(BaseModel):
    """A frozen part of the configuration; a key it does not have is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Section):
    """Which checkpoint: a hub name, or a local directory in Hugging Face format."""

    name: str = Field(min_length=1, examples=["facebook/opt-350m"])
    path: str | None = Field(examples=["path/to/model"])
    revision: str | None = Field(examples=["main"])

    @property
    def where(self) -> str:
        """The key that says which checkpoint, and its value."""
        return f"model.name={self.name}" if self.path is None else f"model.path={self.path}"


class SearchSpaceConfig(Section):
    """Where adapters may go: beside linear projections (LoRA sites), and on shortcuts."""

    projections: tuple[LoraRole, ...] = Field(examples=["[q,v]"])
    shortcuts: tuple[ShortcutRole, ...] = Field(examples=["[res1,res2,in,cut]"])
    lora_alpha: Number = Field(gt=0, examples=[16])
    shortcut_alpha: Number = Field(gt=0, examples=[4])
    scaling: Literal["alpha_over_rank", "alpha_over_budget_rank", "rslora"] = Field(
        examples=["alpha_over_rank"]
    )
    pool: Literal["combined", "separated"] = Field(examples=["combined"])
    renormalize: Literal["always", "enabled"] = Field(examples=["always"])
    exclude: tuple[str, ...] = Field(default=(), examples=["[layers.3.q]"])

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
    """The budget: the parameters of the homogeneous model, every site at the rank of its kind."""

    lora_rank: Rank = Field(examples=[2])
    shortcut_rank: Rank = Field(examples=[2])

    def ranks(self) -> dict[Kind, float]:
        """The rank of each kind of site; below 1 where not every site can be on."""
        return {"lora": self.lora_rank, "shortcut": self.shortcut_rank}


class TrainingConfig(Section):
    """Length, batching and kernels of the fine-tuning, and how often a step is logged."""

    epochs: PositiveInt = Field(examples=[20])
    batch_size: PositiveInt = Field(examples=[8])
    log_every: PositiveInt = Field(examples=[10])
    limit_examples: PositiveInt | None = Field(default=None, examples=[4000])
    micro_batch_size: PositiveInt | None = Field(default=None, examples=[4])
    max_steps: PositiveInt | None = Field(default=None, examples=[1000])
    patience: PositiveInt | None = Field(default=None, examples=[3])
    max_grad_norm: PositiveNumber | None = Field(default=None, examples=[1.0])
    gradient_checkpointing: bool = Field(default=False, strict=True, examples=["true"])
    group_by_length: bool = Field(default=False, strict=True, examples=["true"])
    compile: bool = Field(default=False, strict=True, examples=["true"])
    tf32: bool = Field(default=False, strict=True, examples=["true"])


class EvaluationConfig(Section):
    """The validation pass: all of the split, or a half that selects and one that is reported."""

    batch_size: PositiveInt = Field(examples=[64])
    split: Literal["full", "halves"] = Field(examples=["halves"])


class CheckpointConfig(Section):
    """How often a run is saved beside every epoch's end and the signals that stop it."""

    every_minutes: Number = Field(gt=0, examples=[10])


class PluginConfig(Section):
    """What a `Settings` class of the library can be told, and the object that `build` makes of it.

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

    name: str = Field(pattern=rf"^{PathPart}$", examples=["heterolora"])
    kind: str

    def build(self) -> "Method":
        """The method."""
        made: Method = super().build()
        return made


class ProxyConfig(PluginConfig):
    """A proxy, by the name of its file in `heterolora/proxies`, and its settings."""

    name: str

    def build(self) -> "Proxy":
        """The proxy."""
        made: Proxy = super().build()
        return made

    def observing(self, key: str) -> tuple[str, str] | None:
        """The setting by which it observes training steps, and the remedy; None if it does not.

        Args:
            key: that this is the section of.
        """
        if not self.build().observes:
            return None
        if hasattr(self, "source"):
            return f"{key}.source=running", f"set {key}.source=probe"
        if key == "proxy":
            return f"proxy={self.name}", "choose another, such as proxy=snip"
        return f"{key}.name={self.name}", f"choose another, such as +proxy@{key}=snip"


class SelectionConfig(PluginConfig):
    """A selection, by the name of its file in `heterolora/allocation/selection`."""

    name: str

    def build(self) -> "Selection":
        """The selection."""
        made: Selection = super().build()
        return made


class StrategyConfig(PluginConfig):
    """A strategy, by the name of its file in `heterolora/strategies`; the share that is on."""

    name: str
    enable_rate: Number = Field(gt=0, le=1, examples=[0.25])

    def build(self) -> "Strategy":
        """The strategy."""
        made: Strategy = super().build()
        return made


class TaskConfig(PluginConfig):
    """A task, by the name of its kind's file in `heterolora/tasks`, and where its data is."""

    name: str = Field(pattern=rf"^{PathPart}$", examples=["mrpc"])
    source: str = Field(min_length=1, examples=["nyu-mll/glue"])
    subset: str | None = Field(examples=["mrpc"])
    path: str | None = Field(examples=["path/to/parquet"])
    revision: str | None = Field(examples=["main"])
    train_split: str = Field(examples=["train"])
    validation_split: str = Field(examples=["validation"])
    planting: Annotated[int, Field(strict=True, ge=0)] | None = Field(default=None, examples=[0])
    kind: str
    metrics: tuple[str, ...]

    @property
    def planted(self) -> bool:
        """Whether its right sites are known, by `planting`."""
        return self.path is None and self.source == PLANTED

    def build(self) -> "Task":
        """The task."""
        made: Task = super().build()
        return made


class TrackerConfig(PluginConfig):
    """Where metrics go besides the record, by the name of its file in `heterolora/loggers`."""


class OptimizerConfig(PluginConfig):
    """An optimizer, by the name of its kind's file in `heterolora/training/optimizers`."""

    name: str = Field(pattern=rf"^{PathPart}$", examples=["adamw"])
    kind: str
    learning_rate: Number = Field(gt=0, examples=[2e-4])

    def build(self) -> "Optimizer":
        """The settings of the optimizer, which make one."""
        made: Optimizer = super().build()
        return made


class SchedulerConfig(Section):
    """How the learning rate goes up and down."""

    name: Literal["constant", "linear", "cosine"] = Field(default="constant", examples=["linear"])
    warmup: Number = Field(default=0.0, ge=0, lt=1, examples=[0.1])


class Config(Section):
    """One run, completely: what `config.yaml` in its directory holds.

    `proxy` and `selection` are None under a strategy that never searches, and so is every strategy
    of a method other than this project's. `table` is an experiment's, for reports alone.
    """

    name: str = Field(pattern=rf"^{PathPart}(/{PathPart})*$", examples=["main"])
    seed: int = Field(strict=True, ge=0, examples=[0])
    device: Device = Field(pattern=r"^(auto|cpu|cuda(:\d{1,3})?|mps)$", examples=["auto"])
    precision: Precision = Field(examples=["auto"])
    engine: Engine = Field(default="local", examples=["distributed"])
    output: str = Field(min_length=1, examples=["outputs"])
    rerun: bool = Field(strict=True, examples=["true"])
    offline: bool = Field(strict=True, examples=["true"])
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
    table: Any = Field(default=None, exclude=True)

    def resolved(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return self.model_dump(mode="json")
