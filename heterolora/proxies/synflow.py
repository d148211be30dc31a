"""SYNFLOW (paper, Appendix C.3; https://arxiv.org/abs/2006.05467)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from heterolora.errors import ModelError, Problem
from heterolora.losses import Autocast, Batch, Loss, summed
from heterolora.proxies import needs
from heterolora.proxies.base import Examples, SaliencyProxy, Weights
from heterolora.proxies.passes import AB, first, mask_of, overrides, paired
from heterolora.settings import F, Situation, setting, torch

if TYPE_CHECKING:
    from torch import Tensor

    from heterolora.adapters import Ranked


@dataclass(frozen=True)
class SynFlow(SaliencyProxy):
    """SYNFLOW: `S(M) = sum over theta in A, B of |theta dR/dtheta|`, without signs or data.

    Every parameter is replaced by its absolute value and the input embeddings are all ones, in
    float64, since products along the depth span many orders of magnitude. With `objective: loss`,
    R is the loss of that input summed over the labels of the first `num_batches * batch_size`
    examples, over `batch_size` (the paper); with `output`, R is the sum of the outputs (as in the
    original SynFlow). The input is one unpadded sequence, as long as the longest of these examples.
    """

    weights: Weights = setting(
        "probe",
        help="draw B like A while all are zero (probe), or use its values (current, the paper)",
    )
    objective: Literal["loss", "output"] = setting(
        "loss", help="score the loss (the paper), or the sum of the outputs (the original SynFlow)"
    )
    num_batches: int = setting(1, help="number of batches in the sample", gt=0)

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Yield problems of weights, of float64, and of a loss that has no gradient."""
        yield from super().problems(situation)
        yield from needs.whole_weights(self.name, situation)
        yield from needs.float64(self.name, situation.device)
        if self.objective == "loss" and situation.task and situation.task.compares_inputs:
            rule = (
                "has no gradient where the loss compares inputs, which SynFlow makes all the same"
            )
            yield Problem("objective", self.objective, rule, "set `objective=output`")

    @property
    def needs_labels(self) -> bool:
        """Whether the objective is the loss, which alone reads labels."""
        return self.objective == "loss"

    def sample(self, examples: Examples) -> Iterable[Batch]:
        """Return the first `num_batches * batch_size` examples."""
        return examples.in_order(self.batch_size, self.examples)

    def saliency(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """Return `sum |theta gradient|`, which is the same for theta as for |theta|."""
        return (theta * gradient).abs().sum()

    def gradients(
        self,
        adapters: Ranked[Any],
        theta: AB,
        batches: Iterable[Batch],
        loss: Loss,
        autocast: Autocast,
    ) -> AB:
        """Return the gradients of R with respect to |A| and |B| of every site.

        Raises:
            ModelError: if the device has no float64.
        """
        model = adapters.model
        for problem in needs.float64(self.name, model.device):
            raise ModelError(str(problem))
        absolute = {
            site: (a.double().abs().requires_grad_(), b.double().abs().requires_grad_())
            for site, (a, b) in theta.items()
        }
        tensors = {
            name: p.detach().double().abs() for name, p in model.named_parameters()
        } | overrides(adapters, absolute)
        sampled = list(first(batches, self.examples, self.batch_size))
        length = max(int(mask_of(batch).sum(-1).max()) for batch in sampled)
        embeddings = model.get_input_embeddings()
        device = embeddings.weight.device
        ones = torch.ones(1, length, embeddings.embedding_dim, dtype=torch.float64, device=device)
        mask = torch.ones(1, length, dtype=torch.int64, device=device)
        output = torch.func.functional_call(
            model, tensors, kwargs={"inputs_embeds": ones, "attention_mask": mask}
        )
        leaves = [matrix for pair in absolute.values() for matrix in pair]
        parts = torch.autograd.grad(self._flow(output, sampled, loss), leaves)
        return paired(absolute, parts)

    def _flow(self, output: Any, batches: list[Batch], loss: Loss) -> Tensor:
        """Return R, from the output for one sequence."""
        if self.objective == "output":
            logits: Tensor = output.logits
            return logits.sum()
        labels = torch.cat([_fitted(batch["labels"], output.logits) for batch in batches])
        logits = output.logits.expand(len(labels), *output.logits.shape[1:])
        total, _ = summed(loss, type(output)(logits=logits), {"labels": labels})
        return total / self.batch_size


def _fitted(labels: Tensor, logits: Tensor) -> Tensor:
    """Return labels of examples unchanged; cut or pad labels of tokens to the sequence's length."""
    labels = labels.to(logits.device)
    if labels.dim() == 1:
        return labels
    length = logits.shape[1]
    return F.pad(labels[:, :length], (0, max(0, length - labels.shape[1])), value=-100)
