"""Rules across sections of the configuration: what must fit together."""

from collections.abc import Iterable

from heterolora.config import ProxyConfig, Rule, StrategyConfig, TaskConfig


def labels_for_training(task: TaskConfig) -> Iterable[str]:
    """Fine-tuning needs labels."""
    if task.label is None:
        yield (
            f"task.label=null: fine-tuning needs labels and task {task.name} has none; "
            "name their column with task.label=COLUMN"
        )


def labels_for_proxy(
    task: TaskConfig, proxy: ProxyConfig | None, strategy: StrategyConfig
) -> Iterable[str]:
    """A proxy that scores by the loss needs labels."""
    if task.label is None and strategy.searches and proxy is not None and proxy.needs_labels:
        yield (
            f"proxy={proxy.name}: scores by the loss and needs labels, which task {task.name} has "
            "none of; choose proxy=constant, or name the column with task.label=COLUMN"
        )


def proxy_for_search(strategy: StrategyConfig, proxy: ProxyConfig | None) -> Iterable[str]:
    """A strategy that searches needs a proxy."""
    if strategy.searches and proxy is None:
        yield f"proxy=null: strategy={strategy.name} needs one; choose it with proxy=gradnorm"


def distinct_columns(task: TaskConfig) -> Iterable[str]:
    """A sentence column cannot be the label column too, nor stand twice."""
    columns = [*task.sentences, task.label]
    if len(set(columns)) != len(columns):
        yield (
            f"task.sentences={list(task.sentences)}: the columns {columns} must differ; name each "
            "sentence's own with task.sentences=[...], the label's with task.label=..."
        )


def fitting_metrics(task: TaskConfig) -> Iterable[str]:
    """Classes have accuracies, two classes an F1, numbers on a scale correlations."""
    fitting = ["pearson", "spearman"] if task.is_regression else ["accuracy", "matthews"]
    if task.num_labels == 2:
        fitting.append("f1")
    for name in task.metrics:
        if name not in fitting:
            yield (
                f"task.metrics={list(task.metrics)}: {name} does not fit a task with num_labels="
                f"{task.num_labels}; choose from {', '.join(fitting)}"
            )


RULES: tuple[Rule, ...] = (
    labels_for_training,
    labels_for_proxy,
    proxy_for_search,
    distinct_columns,
    fitting_metrics,
)
