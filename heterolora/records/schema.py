"""The schema of a record: what writes its files and what reads them share these models.

    config.yaml          `RunConfig`, the settings that every reader relies on, and all the others
    provenance.json      `Provenance`
    metrics.jsonl        `StepRow` and `EpochRow`, told apart by `event`
    allocations.jsonl    `SearchRow`
    importance.jsonl     `ImportanceRow`
    run.json             `RunRecord`

A reader takes keys that it does not know, so that a later version may add some; what changes the
meaning of a key raises `SCHEMA_VERSION`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from heterolora.sites import ROLES

SCHEMA_VERSION = 1

CONFIG = "config.yaml"
PROVENANCE = "provenance.json"
METRICS = "metrics.jsonl"
ALLOCATIONS = "allocations.jsonl"
IMPORTANCE = "importance.jsonl"
RUN = "run.json"
CODE_DIFF = "code.diff"
RESTORED = "restored"
"""An empty file in a directory whose record comes from an archive and has no weights."""
CHECKPOINT = "checkpoint"
"""The folder of `WEIGHTS` and, while a run is unfinished, of what it resumes from."""
PREDICTIONS = "predictions"
"""The folder of what the weights were later asked to predict."""
EVALUATIONS = "evaluations"
"""The folder of what benchmarks later found of the weights."""
WEIGHTS = ("best.safetensors", "last.safetensors")

SiteName = Annotated[str, Field(pattern=rf"^layers\.\d+\.({'|'.join(ROLES)})$")]
Status = Literal["running", "finished", "failed", "interrupted"]


class RecordModel(BaseModel):
    """A frozen part of a record: plain JSON values of the right type, every number finite."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    def row(self) -> dict[str, Any]:
        """The plain values that were given, such as a line of a file holds."""
        return self.model_dump(exclude_unset=True)


class StepRow(RecordModel):
    """Some optimizer steps: `loss` is the mean training loss of those since the row before."""

    event: Literal["step"] = "step"
    step: int
    epoch: int
    loss: float


class EpochRow(RecordModel):
    """An epoch and the evaluation after it; every further key is a metric's."""

    __pydantic_extra__: dict[str, float]

    event: Literal["epoch"] = "epoch"
    step: int
    epoch: int
    train_loss: float
    validation_loss: float

    @property
    def metrics(self) -> Mapping[str, float]:
        """Each validation metric, by its name."""
        return self.__pydantic_extra__


class TestRow(RecordModel):
    """The weights of the best epoch on a split that selected nothing; further keys are metrics."""

    __pydantic_extra__: dict[str, float]

    split: str
    epoch: int
    loss: float

    @property
    def metrics(self) -> Mapping[str, float]:
        """Each metric, by its name."""
        return self.__pydantic_extra__


class SearchRow(RecordModel):
    """A search: what the proxy said of every site, and the ranks that followed.

    Attributes:
        step: optimizer steps made before it.
        epoch: counted from 1.
        proxy: its settings.
        selection: its settings; None in records written before this was configurable.
        scores: by site.
        ranks: by site; 0 is off.
        parameters: of the adapters that are on.
        tied: sites among which chance decided.
        degenerate: whether all scores were equal.
        seconds: that it took.
        weights: which B was scored; None in records written before it was recorded.
        observed: of how many training steps the scores are; 0 where they are of a sample.
    """

    step: int
    epoch: int
    proxy: dict[str, Any] | None
    selection: dict[str, Any] | None = None
    scores: dict[SiteName, float]
    ranks: dict[SiteName, int]
    parameters: int
    tied: int
    degenerate: bool
    seconds: float
    weights: Literal["current", "probe"] | None = None
    observed: int = 0

    @model_validator(mode="after")
    def _every_site_has_both(self) -> "SearchRow":
        if self.scores.keys() != self.ranks.keys():
            raise ValueError("scores and ranks must be of the same sites")
        return self


class ImportanceRow(RecordModel):
    """What one site is worth after training, and what each proxy said of it before.

    `loss_difference` is loss(without it) - loss(with all), `metric_difference` is
    metric(with all) - metric(without it).
    """

    site: SiteName
    loss_difference: float
    metric_difference: float
    scores: dict[str, float]


class ParameterCounts(RecordModel):
    """How many parameters adapters may have (`budget`) and have (`enabled`), and the head's."""

    budget: int
    enabled: int
    sites: int
    sites_enabled: int
    head: int


class Seconds(RecordModel):
    """Where the time of a run went."""

    training: float
    searching: float
    evaluating: float


OPTIONAL = ("error", "test", "higher_is_better", "unit", "searches_per_epoch")
"""Fields that a finished run may lack."""


class RunRecord(RecordModel):
    """How a run stands and what came out of it; a finished one has every field but `error`.

    Attributes:
        error: in one line, of a run that failed or was interrupted.
        identity: the digest of everything that shapes the run's numbers, the seed apart.
        steps: optimizer steps made.
        primary_metric: the metric by which the best epoch was chosen.
        higher_is_better: its direction; None in records written before this was configurable.
        unit: in which it is shown: `%` is a hundred times its value; None as for the direction.
        best: the row of the best epoch.
        last: the row of the last epoch.
        test: how the best epoch does on a test split; None where there is none.
        searches_per_epoch: as really made; None for a strategy without a schedule.
    """

    schema_version: int = SCHEMA_VERSION
    status: Status
    error: str | None = None
    seed: int | None = None
    identity: str | None = None
    steps: int | None = None
    primary_metric: str | None = None
    higher_is_better: bool | None = None
    unit: str | None = None
    best: EpochRow | None = None
    last: EpochRow | None = None
    test: TestRow | None = None
    parameters: ParameterCounts | None = None
    seconds: Seconds | None = None
    peak_memory_bytes: int | None = None
    searches_per_epoch: int | None = None

    @model_validator(mode="after")
    def _finished_is_complete(self) -> "RunRecord":
        if self.status == "finished":
            for name in type(self).model_fields:
                if getattr(self, name) is None and name not in OPTIONAL:
                    raise ValueError(f"a finished run must have {name}")
            for row in (self.best, self.last):
                if row is not None and self.primary_metric not in row.metrics:
                    raise ValueError(f"best and last must have {self.primary_metric}")
        return self


class Code(RecordModel):
    """The version of the source; None of both where it is not in git."""

    commit: str | None = None
    dirty: bool | None = None


class Origin(RecordModel):
    """Where numbers come from; None for what is not known."""

    code: Code | None = None
    python: str | None = None
    packages: dict[str, str | None] | None = None
    hardware: dict[str, Any] | None = None
    model: dict[str, Any] | None = None
    data: dict[str, Any] | None = None


class Resumption(Origin):
    """Where a run went on, its code, and whatever was not as it began."""

    step: int


class Provenance(Origin):
    """Where the numbers of a run come from, as it began and each time that it was resumed."""

    resumed: list[Resumption] = Field(default_factory=list)


class TaskNames(RecordModel):
    """The task of a run: its name and its metrics, the first of which is shown in tables."""

    name: str
    metrics: list[str] = Field(min_length=1)


class Named(RecordModel):
    """A section that is chosen by its name."""

    name: str


class RankBudget(RecordModel):
    """The budget, by kind of site."""

    lora_rank: float
    shortcut_rank: float


class Optimizer(RecordModel):
    """The learning rate, by which runs are tuned."""

    learning_rate: float


class RunConfig(RecordModel):
    """What every reader relies on in a resolved configuration."""

    name: str
    seed: int
    model: Named
    task: TaskNames
    strategy: Named
    proxy: Named | None
    rank_budget: RankBudget
    optimizer: Optimizer


METRICS_ROW: TypeAdapter[StepRow | EpochRow] = TypeAdapter(
    Annotated[StepRow | EpochRow, Field(discriminator="event")]
)
SEARCH_ROW = TypeAdapter(SearchRow)
IMPORTANCE_ROW = TypeAdapter(ImportanceRow)


def reason(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
