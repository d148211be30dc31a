"""SYNFLOW (paper, Appendix C.3; https://arxiv.org/abs/2006.05467)."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from heterolora.config import PositiveInt
from heterolora.proxies.base import AB, SaliencyProxy, Subject, overrides


class SynFlow(SaliencyProxy):
    """`S(M) = sum over theta in A, B of |theta dR/dtheta|` in a model without signs or data.

    Every parameter is replaced by its absolute value and the input embeddings are all ones, in
    float64, since products along the depth span many orders of magnitude. With `objective: loss`,
    R is the loss of that input summed over the first `num_batches * batch_size` labels, over
    `batch_size` (the paper); with `output`, R is the sum of the outputs (SYNFLOW's own). The input
    is one unpadded sequence, as long as the longest of these examples.
    """

    name: Literal["synflow"] = "synflow"
    objective: Literal["loss", "output"] = Field(examples=["loss"])
    num_batches: PositiveInt = Field(examples=[1])
    batch_size: PositiveInt = Field(examples=[8])

    @property
    def needs_labels(self) -> bool:
        """Only the loss reads them."""
        return self.objective == "loss"

    def saliency(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """`sum |theta gradient|`; theta stands for |theta|, whose product has the same size."""
        return (theta * gradient).abs().sum()

    def gradients(self, subject: Subject, theta: AB) -> AB:
        """The gradient of R by |A| and |B| of every site."""
        model = subject.inventory.model
        absolute = {
            site: (a.double().abs().requires_grad_(), b.double().abs().requires_grad_())
            for site, (a, b) in theta.items()
        }
        tensors = {
            name: p.detach().double().abs() for name, p in model.named_parameters()
        } | overrides(subject, absolute)
        count = min(self.num_batches * self.batch_size, len(subject.examples))
        length = subject.examples.longest(count)
        labels = subject.examples.labels[:count]
        embeddings = model.get_input_embeddings()
        ones = torch.ones(
            1,
            length,
            embeddings.embedding_dim,
            dtype=torch.float64,
            device=embeddings.weight.device,
        )
        mask = torch.ones(1, length, dtype=torch.int64, device=ones.device)
        logits = subject.logits(tensors, {"inputs_embeds": ones, "attention_mask": mask})
        flow = self._flow(subject, logits, labels.to(ones.device))
        leaves = [matrix for pair in absolute.values() for matrix in pair]
        parts = torch.autograd.grad(flow, leaves)
        return dict(zip(absolute, zip(parts[::2], parts[1::2], strict=True), strict=True))

    def _flow(self, subject: Subject, logits: Tensor, labels: Tensor) -> Tensor:
        if self.objective == "output":
            return logits.sum()
        return subject.loss(logits.expand(len(labels), -1), labels) / self.batch_size
