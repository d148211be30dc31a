"""The metrics of a task."""

from collections.abc import Callable, Sequence

from scipy import stats
from sklearn import metrics as sk
from torch import Tensor

from heterolora.config import TaskConfig


def metrics(
    task: TaskConfig, logits: Tensor, labels: Sequence[int] | Sequence[float]
) -> dict[str, float]:
    """The task's metrics, in the order of `task.metrics`; accuracy and F1 between 0 and 1.

    A correlation that is undefined because predictions or labels are all equal counts as 0, and so
    does an F1 without a predicted or a true positive.

    Args:
        task: names the metrics; F1 is that of class 1.
        logits: (n, num_labels).
        labels: the n true labels.
    """
    predictions = logits.squeeze(-1) if task.is_regression else logits.argmax(-1)
    predicted = predictions.double().numpy(force=True)
    constant = len(set(predicted.tolist())) == 1 or len(set(labels)) == 1
    table: dict[str, Callable[[], float]] = {
        "accuracy": lambda: sk.accuracy_score(labels, predicted),
        "f1": lambda: sk.f1_score(labels, predicted, zero_division=0.0),
        "matthews": lambda: sk.matthews_corrcoef(labels, predicted),
        "pearson": lambda: 0.0 if constant else stats.pearsonr(labels, predicted).statistic,
        "spearman": lambda: 0.0 if constant else stats.spearmanr(labels, predicted).statistic,
    }
    return {name: float(table[name]()) for name in task.metrics}
