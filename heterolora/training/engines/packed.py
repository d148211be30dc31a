"""Several runs at once, in one pass over the model that they share.

Frozen layers see the batches of all runs as one batch, run after run. Adapters and heads are
stacked along a run axis, and map the rows of each run with its own weights (`bmm`). The losses are
summed; since no weight belongs to two runs, the gradient of the sum contains the gradient of each
run.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from heterolora.adapters import Adapters, LowRank
from heterolora.architectures import FAMILIES
from heterolora.kernels.dropout import Dropout, has_dropout, recomputes
from heterolora.kernels.unpadding import without_padding
from heterolora.losses import Batch, inputs
from heterolora.tasks.packing import NOWHERE
from heterolora.training.engines.local import LocalEngine


class PackedEngine:
    """Makes one step for each of its members, in one forward and one backward pass.

    Each member keeps its own weights, ranks, optimizer and dropout stream, so that it can be
    evaluated, searched, saved and trained alone at any time. Only on the CPU does each member draw
    dropout from its own stream; elsewhere all draw from the first member's.

    Args:
        members: engines with equal models and search spaces; their ranks and capacities may differ.
            From now on they share the frozen weights of the first.

    Attributes:
        members: the engines.
        model: the model that computes all members' outputs in one pass.

    Raises:
        ValueError: if their sites or heads differ, a head is not made of linear layers, or gradient
            checkpointing is on.
    """

    def __init__(self, members: Sequence[LocalEngine]) -> None:
        self.members = tuple(members)
        first = self.members[0].adapters
        for member in self.members[1:]:
            if (
                member.adapters.sites != first.sites
                or member.adapters.head.keys() != first.head.keys()
            ):
                raise ValueError("runs with other sites or another head cannot be packed")
            share_frozen(member.adapters.model, first.model)
        if any(recomputes(member.adapters.model.modules()) for member in self.members):
            raise ValueError("models with gradient checkpointing cannot be packed")
        self.model, self._stacks = _stacked(self.members)
        self._has_dropout = has_dropout(self.model)
        self._generators = [torch.Generator() for _ in self.members]

    def step(self, batches: Sequence[Batch]) -> list[Tensor]:
        """Make one optimizer step for each member on the mean loss of its batch.

        Args:
            batches: one batch per member, all with the same number of examples.

        Returns:
            The loss of each member, left on the device.
        """
        model, runs = self.model.train(), len(self.members)
        for stack in self._stacks:
            stack.refresh()
        batch = _joined(batches, model.config.pad_token_id)
        first = self.members[0]
        with self._dropout(), first.autocast(), without_padding(runs):
            output = model(**inputs(batch))
        losses = []
        parts = {name: tensor.chunk(runs) for name, tensor in batch.items()}
        for run, (member, logits) in enumerate(
            zip(self.members, output.logits.chunk(runs), strict=True)
        ):
            own = {name: chunks[run] for name, chunks in parts.items()}
            total, count = member.task.loss(SimpleNamespace(logits=logits), own)
            losses.append(total / count)
        torch.autograd.backward(torch.stack(losses).sum())
        for stack in self._stacks:
            stack.hand_out()
        for member in self.members:
            member.update()
        return [loss.detach() for loss in losses]

    def _dropout(self) -> AbstractContextManager[object]:
        """A context in which dropout draws from each member's own stream, where it can."""
        if not self._has_dropout:
            return nullcontext()
        if self.model.device.type != "cpu":
            return self.members[0].dropout
        return _Streams(self.members, self._generators)


class _Streams(Dropout):
    """Dropout that draws from each member's own stream."""

    def __init__(
        self, members: Sequence[LocalEngine], generators: Sequence[torch.Generator]
    ) -> None:
        super().__init__(generators)
        self._pairs = list(zip(members, generators, strict=True))

    def __enter__(self) -> "_Streams":
        for member, generator in self._pairs:
            generator.set_state(member.dropout.states["cpu"])
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for member, generator in self._pairs:
            member.dropout.states["cpu"] = generator.get_state()


class Stack(nn.Module):
    """Parameters of all runs along a run axis; where shapes differ, they are padded with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self._pairs: list[tuple[Tensor, nn.Parameter]] = []

    def stacked(self, parameters: Sequence[nn.Parameter]) -> nn.Parameter:
        """Return a leaf (runs, ...) that takes its values from `parameters`, one per run."""
        sizes = [max(size) for size in zip(*(p.shape for p in parameters), strict=True)]
        leaf = nn.Parameter(parameters[0].new_zeros(len(parameters), *sizes))
        for one, parameter in zip(leaf, parameters, strict=True):
            self._pairs.append((_corner(one.detach(), parameter), parameter))
        return leaf

    def refresh(self) -> None:
        """Copy the current values from the runs, and clear the gradients."""
        views, parameters = zip(*self._pairs, strict=True)
        torch._foreach_copy_(views, [parameter.detach() for parameter in parameters])
        for leaf in self.parameters(recurse=False):
            leaf.grad = None

    def hand_out(self) -> None:
        """Give each run its gradients."""
        pairs = iter(self._pairs)
        for leaf in self.parameters(recurse=False):
            gradient: Any = leaf.grad
            for run in range(len(leaf)):
                _, parameter = next(pairs)
                on = gradient is not None and self.trains(run)
                # Contiguous, because torch's fused AdamW ignores the strides of gradients.
                parameter.grad = _corner(gradient[run], parameter).contiguous() if on else None

    def trains(self, run: int) -> bool:
        """Whether the parameters of a run are in use."""
        return True


class StackedLowRank(Stack):
    """The adapters of all runs at one site."""

    def __init__(self, adapters: Sequence[LowRank]) -> None:
        super().__init__()
        self._adapters = list(adapters)
        self.A = self.stacked([adapter.A for adapter in adapters])  # (runs, capacity, d_in)
        self.B = self.stacked([adapter.B for adapter in adapters])  # (runs, d_out, capacity)
        self._ranks: list[int] = []

    def refresh(self) -> None:
        """Copy the current weights and ranks from the runs."""
        super().refresh()
        ranks = [adapter.rank for adapter in self._adapters]
        if ranks == self._ranks:
            return
        self._ranks, like = ranks, self.A.detach()
        on = [run for run, rank in enumerate(ranks) if rank]
        self._marks = torch.tensor([rank > 0 for rank in ranks], device=like.device)
        self._on = None if len(on) == len(ranks) else torch.tensor(on, device=like.device)
        self._most = max(ranks)
        factors = like.new_zeros(len(on), 1, self._most)
        for row, run in enumerate(on):
            factors[row, :, : ranks[run]] = self._adapters[run].scaling_rule(ranks[run])
        self._factors = factors

    def trains(self, run: int) -> bool:
        """Whether any rank of a run's adapter is on."""
        return bool(self._ranks[run])

    @property
    def known_rank(self) -> int | None:
        """0 if the site is off in every run, otherwise None."""
        return None if self._most else 0

    def on(self, x: Tensor) -> Tensor:
        """Return for each row of `x` (runs * n, ...) whether the site is on in the row's run."""
        rows = self._marks.repeat_interleave(x.flatten(0, -2).shape[0] // len(self._marks))
        return rows.view(*x.shape[:-1], 1)

    def added(self, y: Tensor, x: Tensor) -> Tensor:
        """Return `y + scaling B diag(mask) A x`, with the weights of each row's run."""
        if not self._most:
            return y
        runs = len(self._ranks)
        rows: Tensor = x.reshape(runs, -1, x.shape[-1])
        a: Tensor = self.A[:, : self._most]
        b: Tensor = self.B[:, :, : self._most]
        if self._on is not None:
            rows, a, b = (tensor.index_select(0, self._on) for tensor in (rows, a, b))
        autocast = torch.is_autocast_enabled(x.device.type)
        z = torch.bmm(rows if autocast else rows.to(a.dtype), a.transpose(1, 2)) * self._factors
        into = y.reshape(runs, -1, y.shape[-1])
        if self._on is not None:
            added = torch.bmm(z, b.transpose(1, 2)).to(y.dtype)
            return into.index_add(0, self._on, added).view(y.shape)
        if y.dtype == a.dtype and not autocast:
            return torch.baddbmm(into, z, b.transpose(1, 2)).view(y.shape)
        return (into + torch.bmm(z, b.transpose(1, 2)).to(y.dtype)).view(y.shape)


class StackedLinear(Stack):
    """The heads of all runs."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        weights = [layer.get_parameter("weight") for layer in layers]
        self.weight = self.stacked(weights)  # (runs, d_out, d_in)
        self.bias: nn.Parameter | None = None
        if layers[0].bias is not None:
            self.bias = self.stacked([layer.get_parameter("bias") for layer in layers])

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (runs * n, ..., d_in), each row with the head of its run."""
        rows = x.reshape(len(self.weight), -1, x.shape[-1])
        y = torch.bmm(rows, self.weight.transpose(1, 2))
        if self.bias is not None:
            y = y + self.bias[:, None]
        return y.view(*x.shape[:-1], -1)


def share_frozen(model: nn.Module, other: nn.Module) -> None:
    """Make `model` use the frozen parameters of `other`, an equal model."""
    theirs = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and parameter.data_ptr() != theirs[name].data_ptr():
            parameter.data = theirs[name].data


def _stacked(members: Sequence[LocalEngine]) -> tuple[PreTrainedModel, list[Stack]]:
    """Copy the members' model, sharing what is frozen; return the copy and the stacks in it."""
    first = members[0].adapters
    names = {id(module): name for name, module in first.model.named_modules()}
    places: dict[str, Stack] = {
        names[id(first[site])]: StackedLowRank([member.adapters[site] for member in members])
        for site in first.sites
    }
    for name in {name.rpartition(".")[0] for name in first.head}:
        layers: list[Any] = [member.adapters.model.get_submodule(name) for member in members]
        if not all(isinstance(layer, nn.Linear) for layer in layers):
            raise ValueError(f"{name}: a {type(layers[0]).__name__} of a head cannot be packed")
        places[name] = StackedLinear(layers)
    memo = {id(tensor): tensor for tensor in _frozen(first.model)}
    model = copy.deepcopy(first.model, memo)
    for name, stack in places.items():
        model.set_submodule(name, stack)
    return model, list(places.values())


def _frozen(model: nn.Module) -> Iterator[Tensor]:
    yield from (parameter for parameter in model.parameters() if not parameter.requires_grad)
    yield from model.buffers()


def _corner(tensor: Tensor, like: Tensor) -> Tensor:
    """Return the part of `tensor` that has the shape of `like`, starting at its first entry."""
    return tensor[tuple(slice(size) for size in like.shape)]


def _joined(batches: Sequence[Batch], padding: int | None) -> dict[str, Tensor]:
    """Concatenate the batches into one, padded to the longest."""
    values = {"input_ids": padding or 0, "labels": -100, "position_ids": NOWHERE}
    joined = {}
    for name, one in batches[0].items():
        rows = [batch[name] for batch in batches]
        if one.dim() > 1:
            longest = [max(sizes) for sizes in zip(*(row.shape[1:] for row in rows), strict=True)]
            value = values.get(name, 0)
            rows = [F.pad(row, _missing(row, longest), value=value) for row in rows]
        joined[name] = torch.cat(rows)
    return joined


def _missing(row: Tensor, longest: Sequence[int]) -> list[int]:
    """Return the padding that each dimension after the first needs, in the order of `F.pad`."""
    lacking = [most - size for size, most in zip(row.shape[1:], longest, strict=True)]
    return [end for most in reversed(lacking) for end in (0, most)]


def packable(engine: LocalEngine) -> bool:
    """Whether the steps of a run can share one pass with those of other runs.

    Not so for a run with observers, which would have no pass of their own to observe; for a model
    without adapters, which trains what the shared pass would share; for gradient checkpointing; and
    for models of which copies cannot share the frozen weights. A step that is made in several parts
    is made alone as well.
    """
    adapters = engine.adapters
    return bool(
        adapters.sites
        and not engine.observers
        and not recomputes(adapters.model.modules())
        and _shareable(adapters)
    )


def _shareable(adapters: Adapters) -> bool:
    """Whether one pass can serve several runs that train these adapters and this head.

    The head must consist of linear layers, and the projections must map only the tokens of their
    own run; quantized layers keep a state that copies of a model do not share.
    """
    model = adapters.model
    if getattr(model, "is_quantized", False):
        return False
    heads = {name.rpartition(".")[0] for name in adapters.head}
    family = FAMILIES.get(model.config.model_type)
    return all(isinstance(model.get_submodule(name), nn.Linear) for name in heads) and not (
        family and family.beside_tokens
    )
