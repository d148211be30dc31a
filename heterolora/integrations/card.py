"""The model card of an exported adapter."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData


def model_card(
    base_model: str,
    dataset: str,
    metrics: Mapping[str, float],
    facts: Mapping[str, str],
    usage: str,
    library: str = "peft",
    task: str = "text-classification",
    tags: Sequence[str] = ("lora", "heterolora"),
) -> str:
    """Return a `README.md` with the metadata that the Hugging Face Hub reads.

    Args:
        base_model: the model's name on the Hub, or its local path.
        dataset: the dataset that it was trained and evaluated on.
        metrics: metrics of the weights on the validation split, by name.
        facts: the rows of a table: names and values.
        usage: Python code that loads the adapter.
        library: the library that loads it.
        task: the Hub's name for the task.
        tags: the tags under which the Hub lists it.
    """
    results = [
        EvalResult(
            task_type=task,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split="validation",
            metric_type=name,
            metric_value=round(value, 6),
        )
        for name, value in metrics.items()
    ]
    data: Any = ModelCardData(
        base_model=base_model,
        library_name=library,
        tags=[*tags],
        datasets=[dataset],
        metrics=[*metrics],
        model_name=f"{base_model.rstrip('/').rpartition('/')[2]} on {dataset}",
        eval_results=results,
    )
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {data.model_name}\n\n"
        "LoRA whose ranks were allocated under a parameter budget by HeteroLoRA "
        "(https://arxiv.org/abs/2406.14956).\n\n"
        f"| | |\n| --- | --- |\n{rows}\n\n```python\n{usage}\n```\n"
    )
