"""The schema of a record: these models are shared by the code that writes and reads its files.

    config.yaml          `RunConfig`, the settings that every reader relies on, and all the others
    provenance.json      `Provenance`
    metrics.jsonl        `StepRow` and `EpochRow`, told apart by `event`
    allocations.jsonl    `SearchRow`
    importance.jsonl     `ImportanceRow`
    run.json             `RunRecord`
    *.jsonl.gz           an archive: `ArchivedRow`, a whole run

and by the code that writes and reads the files of a sweep:

    plan.json            `Plan`
    outcomes/            `OutcomeRow`, in a file for each run

Readers accept keys that they do not know, so that a later version may add some; a change in the
meaning of a key increases `SCHEMA_VERSION`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from heterolora.sites import ROLES

SCHEMA_VERSION = 1

CONFIG = "config.yaml"
PROVENANCE = "provenance.json"
METRICS = "metrics.jsonl"
ALLOCATIONS = "allocations.jsonl"
IMPORTANCE = "importance.jsonl"
RUN = "run.json"
ARCHIVE = ".jsonl.gz"
"""The ending of an archive's name."""
CODE_DIFF = "code.diff"
RESTORED = "restored"
"""An empty file in a directory whose record comes from an archive and has no weights."""
CHECKPOINT = "checkpoint"
"""The folder of `WEIGHTS` and, while a run is unfinished, of the checkpoints to resume from."""
PREDICTIONS = "predictions"
"""The folder of predictions made later with the weights."""
EVALUATIONS = "evaluations"
"""The folder of benchmark results obtained later with the weights."""
WEIGHTS = ("best.safetensors", "last.safetensors")
PLAN = "plan.json"
OUTCOMES = "outcomes"
"""The folder of the outcomes of a sweep's runs, each in a file named by the index of the run."""
CONTROL = "constant"
"""The proxy of random allocation: equal scores, ties and churn are its purpose."""

SiteName = Annotated[str, Field(pattern=rf"^layers\.\d+\.({'|'.join(ROLES)})$")]
Status = Literal["running", "finished", "failed", "interrupted"]


class RecordModel(BaseModel):
    """A frozen part of a record: plain JSON values of the right type, every number finite."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    def row(self) -> dict[str, Any]:
        """Return the plain values that were given, as in a line of a file."""
        return self.model_dump(exclude_unset=True)


class StepRow(RecordModel):
    """Some optimizer steps: `loss` is the mean training loss over those since the previous row."""

    event: Literal["step"] = "step"
    step: int
    epoch: int
    loss: float


class EpochRow(RecordModel):
    """An epoch and the evaluation after it; every further key is a metric."""

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
    """The best epoch's weights on a split that selected nothing; further keys are metrics."""

    __pydantic_extra__: dict[str, float]

    split: str
    epoch: int
    loss: float

    @property
    def metrics(self) -> Mapping[str, float]:
        """Each metric, by its name."""
        return self.__pydantic_extra__


class SearchRow(RecordModel):
    """A search: the proxy's score for every site, and the resulting ranks.

    Attributes:
        step: optimizer steps made before the search.
        epoch: the epoch, counted from 1.
        proxy: the settings of the proxy.
        selection: the settings of the selection rule; None in records from before it was
            configurable.
        scores: the score of each site.
        ranks: the rank of each site; 0 is off.
        parameters: the parameter count of the adapters that are on.
        tied: the number of sites among which chance decided.
        degenerate: whether all scores were equal.
        seconds: the duration of the search.
        weights: which B was scored; None in records from before it was recorded.
        observed: over how many training steps the scores were observed; 0 if they come from a
            sample.
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
    """What one site contributes after training, and what each proxy scored it before.

    `loss_difference` is loss(without it) - loss(with all), `metric_difference` is metric(with all)
    - metric(without it).
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
    """How much time a run spent on each activity."""

    training: float
    searching: float
    evaluating: float


OPTIONAL = ("error", "test", "higher_is_better", "unit", "searches_per_epoch")
"""Fields that a finished run may lack."""


class RunRecord(RecordModel):
    """The status and results of a run; a finished one has every field except those in `OPTIONAL`.

    Attributes:
        error: the error of a failed or interrupted run, in one line.
        identity: a digest of everything that determines the run's numbers, except the seed.
        steps: optimizer steps made.
        primary_metric: the metric by which the best epoch was chosen.
        higher_is_better: whether a higher value of it is better; None in records from before this
            was configurable.
        unit: the unit in which it is shown: `%` is a hundred times its value; None in the same
            records.
        best: the row of the best epoch.
        last: the row of the last epoch.
        test: the best epoch's result on a test split; None if there is none.
        searches_per_epoch: the actual number; None for a strategy without a schedule.
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
    """The version of the source; both None if it is not in git."""

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
    """Where a run resumed, with which code, and whatever had changed since it began."""

    step: int


class Provenance(Origin):
    """Where the numbers of a run come from: when it began, and each time that it was resumed."""

    resumed: list[Resumption] = Field(default_factory=list)


class TaskNames(RecordModel):
    """The name and metrics of a run's task; the first metric is shown in tables."""

    name: str
    metrics: list[str] = Field(min_length=1)


class Named(RecordModel):
    """A section that is chosen by name."""

    name: str


class RankBudget(RecordModel):
    """The budget, by kind of site."""

    lora_rank: float
    shortcut_rank: float


class Optimizer(RecordModel):
    """The learning rate, by which runs are tuned."""

    learning_rate: float


class RunConfig(RecordModel):
    """The parts of a resolved configuration that every reader relies on."""

    name: str
    seed: int
    model: Named
    task: TaskNames
    strategy: Named
    proxy: Named | None
    rank_budget: RankBudget
    optimizer: Optimizer


def _as_read(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration unchanged, in its own order, if it is a `RunConfig`."""
    RunConfig.model_validate(config)
    return config


class ArchivedRow(RecordModel):
    """A finished run as one line: the files of its record, except the losses of steps.

    `directory` is the name of its directory.
    """

    directory: str
    config: Annotated[dict[str, Any], AfterValidator(_as_read)]
    provenance: Provenance
    result: RunRecord
    epochs: list[EpochRow]
    searches: list[SearchRow]
    importance: list[ImportanceRow]


class PlannedRun(RecordModel):
    """A run in the plan of a sweep.

    Attributes:
        overrides: the overrides of the command line and of the grid.
        config: the composed configuration.
        directory: the run directory; None if the configuration is not valid, which is reported when
            the run starts.
        label: how messages name the run, such as `run 2 of 4`.
        differs: the overrides that not all runs of the sweep have.
    """

    overrides: str
    config: dict[str, Any]
    directory: str | None
    label: str = ""
    differs: str = ""


class Plan(RecordModel):
    """The runs of a sweep, and how they are divided among jobs.

    Attributes:
        runs: every run, finished or not.
        jobs: for each job the indices of its runs, which are those that are not yet finished.
        batch: how many jobs are launched together.
    """

    runs: list[PlannedRun]
    jobs: list[list[int]]
    batch: int


class OutcomeRow(RecordModel):
    """How a run of a sweep ended, or why it was not launched.

    Attributes:
        status: `skipped` is one that was already finished, `running` and `queued` one that another
            process or SLURM job has, and `lost` one whose job ended without an outcome.
        what: the run directory, or the overrides of a run that did not finish.
        said: the result or the error, in one line.
        exit_code: that of the run; a sweep exits with the lowest one that is not 0.
    """

    status: Literal["finished", "skipped", "running", "queued", "failed", "interrupted", "lost"]
    what: str
    said: str
    exit_code: int = 0


METRICS_ROW: TypeAdapter[StepRow | EpochRow] = TypeAdapter(
    Annotated[StepRow | EpochRow, Field(discriminator="event")]
)
SEARCH_ROW = TypeAdapter(SearchRow)
IMPORTANCE_ROW = TypeAdapter(ImportanceRow)
ARCHIVED_ROW = TypeAdapter(ArchivedRow)


def reason(error: ValidationError) -> str:
    """Return the first validation error in one line."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
