"""The schema of a run's configuration, and `validate`, which finds every problem at once.

Proxies and strategies bring their own section: the class in `heterolora/proxies/<name>.py` or
`heterolora/strategies/<name>.py` is its own schema, so that adding one is one file and one YAML.
"""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import json
import math
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
    field_validator,
)

from heterolora.errors import ConfigError
from heterolora.sites import LoraRole

PositiveInt = Annotated[int, Field(strict=True, gt=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
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

    name: str = Field(min_length=1)
    source: str = Field(min_length=1, examples=["nyu-mll/glue"])
    subset: str | None = Field(examples=["mrpc"])
    path: str | None = Field(examples=["path/to/parquet"])
    revision: str | None = Field(examples=["main"])
    train_split: str = Field(examples=["train"])
    validation_split: str = Field(examples=["validation"])
    sentences: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)]
    label: str | None = Field(examples=["label"])
    num_labels: PositiveInt = Field(examples=[2])
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)]
    max_length: PositiveInt = Field(examples=[128])

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers on a scale (one output, squared error)."""
        return self.num_labels == 1


class SearchSpaceConfig(Section):
    """Where adapters may go: the linear projections of every layer that get a LoRA site."""

    projections: Annotated[tuple[LoraRole, ...], Field(min_length=1)] = Field(examples=["[q,v]"])
    lora_alpha: float = Field(gt=0, examples=[16])

    @field_validator("projections")
    @classmethod
    def _each_once(cls, projections: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(projections)) != len(projections):
            raise ValueError("must name each projection once")
        return projections


class RankBudgetConfig(Section):
    """The budget: the parameters of the homogeneous model, every site at this rank."""

    lora_rank: PositiveInt = Field(examples=[2])


class TrainingConfig(Section):
    """Length and batching of the fine-tuning, and how often a step is logged."""

    epochs: PositiveInt = Field(examples=[20])
    batch_size: PositiveInt = Field(examples=[8])
    log_every: PositiveInt = Field(examples=[10])


class EvaluationConfig(Section):
    """Batching of the validation pass."""

    batch_size: PositiveInt = Field(examples=[64])


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
    enable_rate: float = Field(gt=0, le=1, examples=[0.25])


class OptimizerConfig(Section):
    """AdamW at a constant learning rate."""

    name: Literal["adamw"]
    learning_rate: float = Field(gt=0, lt=float("inf"), examples=[2e-4])
    weight_decay: float = Field(ge=0, lt=float("inf"), examples=[0.01])
    betas: tuple[Beta, Beta] = Field(examples=["[0.9,0.999]"])
    eps: float = Field(gt=0, lt=1, examples=[1e-8])


class Config(Section):
    """One run, completely: what `config.yaml` in its directory holds."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*$", examples=["main"])
    seed: int = Field(strict=True, ge=0, examples=[0])
    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$", examples=["auto"])
    precision: Literal["auto", "fp32", "bf16"] = Field(examples=["auto"])
    output: str = Field(min_length=1, examples=["outputs"])
    rerun: bool = Field(strict=True, examples=["true"])
    model: ModelConfig
    task: TaskConfig
    search_space: SearchSpaceConfig
    proxy: SerializeAsAny[ProxyConfig] | None
    strategy: SerializeAsAny[StrategyConfig]
    rank_budget: RankBudgetConfig
    optimizer: OptimizerConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig

    def resolved(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return self.model_dump(mode="json")

    def identity(self) -> str:
        """Eight hex digits of everything that shapes the run's numbers, the seed apart."""
        dump = self.model_dump(
            mode="json",
            exclude={
                "seed": True,
                "name": True,
                "device": True,
                "output": True,
                "rerun": True,
                "tracking": True,
                "training": {"log_every"},
            },
        )
        return hashlib.sha256(json.dumps(dump, sort_keys=True).encode()).hexdigest()[:8]


def enabled_rank(budget_rank: int, enable_rate: float) -> int | None:
    """The rank of a site that is on, budget / enable rate; None where that is not whole.

    Whole to six decimals: 0.3333333 stands for 1/3, which no decimal of a YAML file equals.
    """
    rank = budget_rank / enable_rate
    return round(rank) if math.isclose(rank, round(rank), abs_tol=1e-6) else None


def whole_rank(rank_budget: RankBudgetConfig, strategy: StrategyConfig) -> Iterable[str]:
    """A site that is on has rank budget / enable rate, which must come out whole."""
    if enabled_rank(rank_budget.lora_rank, strategy.enable_rate) is None:
        ratio = rank_budget.lora_rank / strategy.enable_rate
        yield (
            f"strategy.enable_rate={strategy.enable_rate:g}: rank_budget.lora_rank / "
            f"strategy.enable_rate must be whole, but {rank_budget.lora_rank} / "
            f"{strategy.enable_rate:g} = {ratio:g}; change one, "
            "for example strategy.enable_rate=0.25"
        )


def labels_present(task: TaskConfig, proxy: ProxyConfig, strategy: StrategyConfig) -> Iterable[str]:
    """Fine-tuning, and every proxy that scores by the loss, needs the task's labels."""
    if task.label is not None:
        return
    yield (
        f"task.label=null: fine-tuning needs labels and task {task.name} has none; "
        "name their column with task.label=COLUMN"
    )
    if strategy.searches and proxy.needs_labels:
        yield (
            f"proxy={proxy.name}: scores by the loss and needs labels, which task {task.name} has "
            "none of; choose proxy=constant, or name the column with task.label=COLUMN"
        )


def distinct_columns(task: TaskConfig) -> Iterable[str]:
    """A sentence column cannot be the label column too, nor stand twice."""
    columns = [*task.sentences, task.label]
    if len(set(columns)) != len(columns):
        yield (
            f"task.sentences={list(task.sentences)}: the columns {columns} must differ; name each "
            "sentence's own with task.sentences=[...], the label's with task.label=..."
        )


RULES: tuple[Rule, ...] = (whole_rank, labels_present, distinct_columns)


def find_plugin(package: str, base: type[PluginConfig], name: str) -> type[PluginConfig] | None:
    """The subclass of `base` that `package/name.py` defines, or None where there is none."""
    module_name = f"{package}.{name}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or importlib.util.find_spec(module_name) is None:
        return None
    module = importlib.import_module(module_name)
    for member in vars(module).values():
        if (
            inspect.isclass(member)
            and issubclass(member, base)
            and not inspect.isabstract(member)
            and member.__module__ == module_name
        ):
            return member
    return None


def validate(
    raw: Mapping[str, Any],
    plugins: Mapping[str, Callable[[str], type[PluginConfig] | None]],
    rules: Sequence[Rule] = (),
) -> Config:
    """Check a composed configuration whole, and type it.

    Args:
        raw: the configuration as plain, resolved values.
        plugins: for each group whose members are classes, the class for a member's name.
        rules: checks across sections that belong to higher floors, run beside `RULES`.

    Returns:
        The typed configuration. Under a strategy that never searches, `proxy` is None.

    Raises:
        ConfigError: with every problem found, one line each.
    """
    problems = [_unknown(key, Config.model_fields) for key in raw if key not in Config.model_fields]
    sections: dict[str, Any] = {}
    for key, field in Config.model_fields.items():
        if key not in raw:
            problems.append(f"{key}: is missing; choose one with {key}=...")
            continue
        schema: Any = Annotated[field.annotation, field]
        if key in plugins:
            name = raw[key].get("name") if isinstance(raw[key], Mapping) else raw[key]
            schema = plugins[key](str(name))
            if schema is None:
                problems.append(
                    f"{key}.name={name}: there is no such {key}; leave {key}.name alone and choose "
                    f"one of conf/{key}/ with {key}=..."
                )
                continue
        try:
            sections[key] = TypeAdapter(schema).validate_python(raw[key])
        except ValidationError as error:
            problems.extend(_problem(key, schema, detail) for detail in error.errors())
    for rule in (*RULES, *rules):
        wanted = inspect.signature(rule).parameters
        if wanted.keys() <= sections.keys():
            problems.extend(rule(**{name: sections[name] for name in wanted}))
    if problems:
        raise ConfigError(problems)
    if not sections["strategy"].searches:
        sections["proxy"] = None
    return Config.model_construct(**sections)


def suggestion(key: str, known: Iterable[str]) -> str:
    """What to write instead of the unknown `key`: the nearest known one, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}"


def _unknown(key: str, fields: Iterable[str], prefix: str = "") -> str:
    return f"{prefix}{key}: unknown key; {suggestion(key, fields)}"


def _problem(section: str, schema: Any, detail: Any) -> str:
    """One line for one pydantic error: the key, the value, the rule, and how to set it."""
    path = [str(part) for part in detail["loc"]]
    fields: Mapping[str, Any] = getattr(schema, "model_fields", {})
    if not fields and section in Config.model_fields:
        annotation = Config.model_fields[section].annotation
        fields = getattr(annotation, "model_fields", {})
    if detail["type"] == "extra_forbidden":
        return _unknown(path[-1], fields, prefix=f"{section}.")
    key = ".".join([section, *path])
    field = fields.get(path[0]) if path else Config.model_fields[section]
    rule = re.sub(r"^(Input|Value error,|String|Tuple) ?(should )?", "", detail["msg"])
    rule = re.sub(r"^be ", "must be ", rule)
    if detail["type"] == "missing":
        return f"{key}: is missing; set it with {key}=..."
    examples = getattr(field, "examples", None)
    remedy = (
        f"; for example {section}{''.join('.' + p for p in path[:1])}={examples[0]}"
        if examples
        else ""
    )
    return f"{key}={detail['input']}: {rule}{remedy}"
