"""The schema of a run's configuration, and `validate`, which finds every problem at once.

Proxies and strategies bring their own section: the class in `heterolora/proxies/<name>.py` or
`heterolora/strategies/<name>.py` is its own schema, so that adding one is one file and one YAML.
"""

import difflib
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from heterolora.errors import ConfigError
from heterolora.sites import Kind, LoraRole, ShortcutRole

PositiveInt = Annotated[int, Field(strict=True, gt=0)]
Rank = Annotated[int, Field(strict=True, ge=0)]
"""Zero for a kind of site that the search space does not have."""
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite number; `true` is none."""
PathPart = r"[A-Za-z0-9][\w.-]*"
"""A name that can be a folder, and cannot lead out of one."""
Beta = Annotated[Number, Field(ge=0, lt=1)]
Rule = Callable[..., Iterable[str]]
"""A check across sections. It names the sections it reads as parameters and yields problems."""


class Section(BaseModel):
    """A frozen part of the configuration; a key it does not have is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Section):
    """Which checkpoint: a hub name, or a local directory in Hugging Face format."""

    name: str = Field(min_length=1, examples=["facebook/opt-350m"])
    path: str | None = Field(examples=["path/to/model"])
    revision: str | None = Field(examples=["main"])
    recipes: Any = Field(default=None, exclude=True)


MetricName = Literal["accuracy", "f1", "matthews", "pearson", "spearman"]


class TaskConfig(Section):
    """A task over one sentence or a pair: classification, or regression where `num_labels` is 1."""

    name: str = Field(pattern=rf"^{PathPart}$", examples=["mrpc"])
    source: str = Field(min_length=1, examples=["nyu-mll/glue"])
    subset: str | None = Field(examples=["mrpc"])
    path: str | None = Field(examples=["path/to/parquet"])
    revision: str | None = Field(examples=["main"])
    train_split: str = Field(examples=["train"])
    validation_split: str = Field(examples=["validation"])
    sentences: tuple[str, ...] = Field(min_length=1, max_length=2, examples=["[sentence]"])
    label: str | None = Field(examples=["label"])
    num_labels: PositiveInt = Field(examples=[2])
    metrics: tuple[MetricName, ...] = Field(min_length=1, examples=["[accuracy]"])
    max_length: PositiveInt = Field(examples=[128])

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers on a scale (one output, squared error)."""
        return self.num_labels == 1


class SearchSpaceConfig(Section):
    """Where adapters may go: beside linear projections (LoRA sites), and on shortcuts."""

    projections: tuple[LoraRole, ...] = Field(examples=["[q,v]"])
    shortcuts: tuple[ShortcutRole, ...] = Field(examples=["[res1,res2,in,cut]"])
    lora_alpha: Number = Field(gt=0, examples=[16])
    shortcut_alpha: Number = Field(gt=0, examples=[4])
    pool: Literal["combined", "separated"] = Field(examples=["combined"])
    renormalize: Literal["always", "enabled"] = Field(examples=["always"])

    @field_validator("projections", "shortcuts")
    @classmethod
    def _each_once(cls, roles: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if len(set(roles)) != len(roles):
            raise ValueError(f"must name each {str(info.field_name).removesuffix('s')} once")
        return roles

    def roles(self) -> dict[Kind, tuple[str, ...]]:
        """The roles of each kind of site."""
        return {"lora": self.projections, "shortcut": self.shortcuts}


class RankBudgetConfig(Section):
    """The budget: the parameters of the homogeneous model, every site at the rank of its kind."""

    lora_rank: Rank = Field(examples=[2])
    shortcut_rank: Rank = Field(examples=[2])

    def ranks(self) -> dict[Kind, int]:
        """The rank of each kind of site."""
        return {"lora": self.lora_rank, "shortcut": self.shortcut_rank}


class TrainingConfig(Section):
    """Length and batching of the fine-tuning, and how often a step is logged."""

    epochs: PositiveInt = Field(examples=[20])
    batch_size: PositiveInt = Field(examples=[8])
    log_every: PositiveInt = Field(examples=[10])


class EvaluationConfig(Section):
    """The validation pass: all of the split, or a half that selects and one that is reported."""

    batch_size: PositiveInt = Field(examples=[64])
    split: Literal["full", "halves"] = Field(examples=["halves"])


class CheckpointConfig(Section):
    """How often a run is saved beside every epoch's end and the signals that stop it."""

    every_minutes: Number = Field(gt=0, examples=[10])


class TrackingConfig(Section):
    """Where metrics go besides the local files, which are always written."""

    name: Literal["local", "wandb"] = Field(examples=["local"])
    project: str = Field(default="heterolora", min_length=1)
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()


class PluginConfig(Section):
    """The section of a group whose members are classes of the package, found by `name`."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")


class ProxyConfig(PluginConfig):
    """What every proxy's section has; `needs_labels` says whether its score reads the labels."""

    @property
    def needs_labels(self) -> bool:
        """Whether the score depends on the examples' labels."""
        return True


class StrategyConfig(PluginConfig):
    """What every strategy's section has: the share of the sites that is on."""

    searches: ClassVar[bool] = True
    enable_rate: Number = Field(gt=0, le=1, examples=[0.25])


class OptimizerConfig(Section):
    """AdamW at a constant learning rate."""

    name: Literal["adamw"]
    learning_rate: Number = Field(gt=0, examples=[2e-4])
    weight_decay: Number = Field(ge=0, examples=[0.01])
    betas: tuple[Beta, Beta] = Field(examples=["[0.9,0.999]"])
    eps: Number = Field(gt=0, lt=1, examples=[1e-8])


NOT_IN_IDENTITY: dict[str, Any] = {
    "seed": True,
    "name": True,
    "device": True,
    "output": True,
    "rerun": True,
    "offline": True,
    "runs_per_job": True,
    "checkpoint": True,
    "tracking": True,
    "training": {"log_every": True},
}
"""Settings that two runs of one arm may differ in: the seed, and what shapes no number."""


class Config(Section):
    """One run, completely: what `config.yaml` in its directory holds."""

    name: str = Field(pattern=rf"^{PathPart}(/{PathPart})*$", examples=["main"])
    seed: int = Field(strict=True, ge=0, examples=[0])
    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d{1,3})?|mps)$", examples=["auto"])
    precision: Literal["auto", "fp32", "bf16"] = Field(examples=["auto"])
    output: str = Field(min_length=1, examples=["outputs"])
    rerun: bool = Field(strict=True, examples=["true"])
    offline: bool = Field(strict=True, examples=["true"])
    model: ModelConfig
    task: TaskConfig
    search_space: SearchSpaceConfig
    proxy: SerializeAsAny[ProxyConfig] | None
    strategy: SerializeAsAny[StrategyConfig]
    rank_budget: RankBudgetConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    tracking: TrackingConfig
    importance: dict[str, SerializeAsAny[ProxyConfig]]
    runs_per_job: PositiveInt = Field(examples=[3])

    def resolved(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return self.model_dump(mode="json")

    def identity(self) -> str:
        """Eight hex digits of everything that shapes the run's numbers, the seed apart."""
        dump = self.model_dump(mode="json", exclude=NOT_IN_IDENTITY)
        return hashlib.sha256(json.dumps(dump, sort_keys=True).encode()).hexdigest()[:8]


def validate(
    raw: Mapping[str, Any],
    plugins: Mapping[str, Callable[[str], type[PluginConfig] | None]],
    rules: Sequence[Rule],
) -> Config:
    """Check a composed configuration whole, and type it.

    Args:
        raw: the configuration as plain, resolved values.
        plugins: for each group whose members are classes, the class for a member's name.
        rules: checks across sections, run beside those of the schema.

    Returns:
        The typed configuration. Under a strategy that never searches, `proxy` is None.

    Raises:
        ConfigError: with every problem found, one line each.
    """
    problems = [_unknown(key, Config.model_fields) for key in raw if key not in Config.model_fields]
    sections: dict[str, Any] = {}
    for key in Config.model_fields:
        if raw.get(key) is None and key == "proxy":
            sections[key] = None  # whether that may be is for proxy_for_search to say
            continue
        if raw.get(key) is None:
            problems.append(f"{key}: is missing; choose one with {key}=...")
            continue
        try:
            if key == "importance":
                proxies = {f"{key}.{name}": value for name, value in raw[key].items()}
                typed = {
                    part: _typed(part, "proxy", value, plugins) for part, value in proxies.items()
                }
                sections[key] = {part.partition(".")[2]: value for part, value in typed.items()}
            else:
                sections[key] = _typed(key, key, raw[key], plugins)
        except ConfigError as error:
            problems.extend(error.problems)
    for rule in rules:
        wanted = inspect.signature(rule).parameters
        if wanted.keys() <= sections.keys():
            problems.extend(rule(**{name: sections[name] for name in wanted}))
    if problems:
        raise ConfigError(problems)
    if not sections["strategy"].searches:
        sections["proxy"] = None
    return Config.model_construct(**sections)


def _typed(
    key: str,
    group: str,
    value: Any,
    plugins: Mapping[str, Callable[[str], type[PluginConfig] | None]],
) -> Any:
    """The value of `key` as what `group` has it be."""
    schema: Any
    if group in plugins:
        name = str(value.get("name") if isinstance(value, Mapping) else value)
        schema = plugins[group](name)
        if schema is None:
            raise ConfigError(
                [
                    f"{key}.name={name}: there is no such {group}; leave {key}.name alone and "
                    f"choose one of conf/{group}/ with {key}=..."
                ]
            )
    else:
        field = Config.model_fields[group]
        schema = Annotated[field.annotation, field]
    try:
        return TypeAdapter(schema).validate_python(value)
    except ValidationError as error:
        raise ConfigError(list(_problems(key, schema, error))) from error


def suggestion(key: str, known: Iterable[str]) -> str:
    """What to write instead of the unknown `key`: the nearest known one, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}"


def _unknown(key: str, fields: Iterable[str], prefix: str = "") -> str:
    return f"{prefix}{key}: unknown key; {suggestion(key, fields)}"


def _problems(section: str, schema: Any, error: ValidationError) -> Iterable[str]:
    """One line for each key that pydantic finds wrong: the key, the value, the rule, a remedy."""
    fields = _fields(section, schema)
    said: set[str] = set()
    for detail in error.errors():
        path = [str(part) for part in detail["loc"]]
        leaf = ".".join([section, *path[:1]])
        if leaf in said:
            continue
        said.add(leaf)
        if detail["type"] == "extra_forbidden":
            yield _unknown(path[0], fields, prefix=f"{section}.")
            continue
        field = fields.get(path[0]) if path else Config.model_fields[section]
        examples = field.examples if field else None
        remedy = f"for example {leaf}={examples[0]}" if examples else f"set it with {leaf}=..."
        if detail["type"] == "missing":
            yield f"{leaf}: is missing; {remedy}"
            continue
        rule = re.sub(r"^\w+ should ", "must ", detail["msg"].removeprefix("Value error, "))
        yield f"{'.'.join([section, *path])}={detail['input']}: {rule}; {remedy}"


def _fields(section: str, schema: Any) -> Mapping[str, FieldInfo]:
    """The fields of a section's model; none where the section is a plain value."""
    if not hasattr(schema, "model_fields"):
        schema = Config.model_fields[section].annotation
    return getattr(schema, "model_fields", {})
