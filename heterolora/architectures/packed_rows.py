"""Rows that hold several examples, which a model must not take for one."""

import torch
from transformers import PreTrainedModel

from heterolora.architectures.family import Family
from heterolora.errors import ModelError


def separate(model: PreTrainedModel, family: Family) -> None:
    """Have a model keep the examples of a packed row apart, and see that it does.

    A packed row comes without an `attention_mask`, its `position_ids` beginning anew with each
    example; most models of transformers then mask what lies before, whichever their attention.

    Args:
        model: a decoder, with whatever adapters.
        family: the model's.

    Raises:
        ModelError: if one example still has a part in what is computed for the next.
    """
    family.separate(model)
    training = model.training
    model.eval()
    try:
        crosses = _crosses(model)
    finally:
        model.train(training)
    if crosses:
        raise ModelError(
            f"task.packing=true: {type(model).__name__} lets examples in one row see each other; "
            "set task.packing=false"
        )


@torch.enable_grad()
def _crosses(model: PreTrainedModel) -> bool:
    """Whether outputs of the second of two packed examples have a gradient by the first."""
    embed = model.get_input_embeddings()
    ids = torch.arange(2, 6, device=embed.weight.device)[None]
    inputs = embed(ids).detach().requires_grad_()
    positions = torch.tensor([[0, 1, 0, 1]], device=ids.device)
    logits = model(inputs_embeds=inputs, position_ids=positions).logits
    (gradient,) = torch.autograd.grad(logits[:, 2:].float().square().sum(), inputs)
    return bool(gradient[:, :2].any())
