"""What there is to know of each metric, and how those of predictions are computed."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """How a metric is read.

    Attributes:
        higher_is_better: its direction.
        unit: `%` for a share that is shown as percent, or nothing.
    """

    higher_is_better: bool
    unit: str


METRICS: Mapping[str, Meaning] = {
    **dict.fromkeys(("accuracy", "f1", "matthews", "pearson", "spearman"), Meaning(True, unit="%")),
    **dict.fromkeys(("macro_f1", "weighted_f1", "balanced_accuracy"), Meaning(True, unit="%")),
    **dict.fromkeys(("precision", "recall", "exact_match", "token_f1"), Meaning(True, unit="%")),
    "perplexity": Meaning(False, unit=""),
}
"""Every metric that a task can have."""

AVERAGES = {"f1": "binary", "macro_f1": "macro", "weighted_f1": "weighted"}
"""What scikit-learn calls each kind of F1."""


def compute_metric(name: str, labels: Sequence[float], predicted: Sequence[float]) -> float:
    """A metric of predictions; accuracy, F1 and their like are between 0 and 1.

    All but accuracy need scikit-learn or SciPy.

    A correlation that is undefined because predictions or labels are all equal counts as 0, and so
    does an F1, a precision or a recall without a predicted or a true positive. These three are of
    class 1; `macro_f1` is the mean over the classes that are among the labels or the predictions,
    `weighted_f1` the mean weighted by how often each is a label, and `balanced_accuracy` the mean
    over the classes among the labels of their recall.

    Args:
        name: of the metric.
        labels: the n true labels.
        predicted: the n predictions.

    Raises:
        ImportError: without the library that the metric needs.
    """
    if name == "accuracy":
        return float(sum(map(operator.eq, labels, predicted)) / len(labels))
    # They take their time to import, and the library does without them where it can.
    if name in ("pearson", "spearman"):
        from scipy import stats

        if len(set(predicted)) == 1 or len(set(labels)) == 1:
            return 0.0
        correlation = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[name]
        return float(correlation(labels, predicted).statistic)
    from sklearn import metrics

    if name in AVERAGES:
        average = AVERAGES[name]
        return float(metrics.f1_score(labels, predicted, average=average, zero_division=0.0))
    if name in ("precision", "recall"):
        score = {"precision": metrics.precision_score, "recall": metrics.recall_score}[name]
        return float(score(labels, predicted, zero_division=0.0))
    if name == "balanced_accuracy":
        # Recall averaged over the labels: balanced_accuracy_score warns of classes never predicted.
        there = sorted({*labels})
        return float(metrics.recall_score(labels, predicted, labels=there, average="macro"))
    return float(metrics.matthews_corrcoef(labels, predicted))
