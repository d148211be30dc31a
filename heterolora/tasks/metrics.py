"""The properties of each metric, and the computation of metrics from predictions."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """How to read a metric.

    Attributes:
        higher_is_better: whether a higher value is better.
        unit: `%` for a fraction that is shown as a percentage, or empty.
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
"""scikit-learn's `average` argument for each kind of F1."""


def compute_metric(name: str, labels: Sequence[float], predicted: Sequence[float]) -> float:
    """Compute a metric from predictions; accuracy, F1 and the like are between 0 and 1.

    All metrics but accuracy need scikit-learn or SciPy.

    A correlation that is undefined because all predictions or all labels are equal counts as 0, as
    do F1, precision and recall without a predicted or a true positive. These three are for class 1.
    `macro_f1` is the mean over the classes that occur among the labels or the predictions,
    `weighted_f1` the mean weighted by how often each class is a label, and `balanced_accuracy` the
    mean recall over the classes that occur among the labels.

    Args:
        name: the name of the metric.
        labels: the n true labels.
        predicted: the n predictions.

    Raises:
        ImportError: if the library that the metric needs is not installed.
    """
    if name == "accuracy":
        return float(sum(map(operator.eq, labels, predicted)) / len(labels))
    # Imported late: they are slow to import, and optional.
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
        # Recall averaged over the labels: balanced_accuracy_score warns of predicted classes that
        # are not among the labels.
        there = sorted({*labels})
        return float(metrics.recall_score(labels, predicted, labels=there, average="macro"))
    return float(metrics.matthews_corrcoef(labels, predicted))
