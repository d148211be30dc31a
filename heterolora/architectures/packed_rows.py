"""Packed rows, which hold several examples that the model must keep apart."""

import torch
from transformers import PreTrainedModel

from heterolora.architectures.family import Family
from heterolora.errors import ModelError


def separate(model: PreTrainedModel, family: Family) -> None:
    """Make a model keep the examples of a packed row apart, and check that it does.

    A packed row has no `attention_mask`, and its `position_ids` start again with each example; most
    transformers models then mask the examples before, whatever their attention implementation.

    Args:
        model: a decoder, with any adapters.
        family: the model's family.

    Raises:
        ModelError: if an example still affects what is computed for the next.
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
    """Return whether the second of two packed examples has a gradient with respect to the first."""
    embed = model.get_input_embeddings()
    ids = torch.arange(2, 6, device=embed.weight.device)[None]
    inputs = embed(ids).detach().requires_grad_()
    positions = torch.tensor([[0, 1, 0, 1]], device=ids.device)
    logits = model(inputs_embeds=inputs, position_ids=positions).logits
    (gradient,) = torch.autograd.grad(logits[:, 2:].float().square().sum(), inputs)
    return bool(gradient[:, :2].any())
