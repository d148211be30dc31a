"""Remove the padding from batches, and the attention that supports this.

The tokens of a batch go through the layers as one row; only inside the attention are they padded
again. Everything else in a layer treats each token by itself, so no output depends on the padding,
and its cost is saved: a quarter of the tokens in a batch of 8 from MRPC.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "heterolora_sdpa"
"""The name of the attention in `config._attn_implementation`."""

WITH_PADDING = ("output_hidden_states", "output_attentions", "use_cache", "past_key_values")
"""Arguments that ask a model for more than the output of its last layer."""

SHORT = 64
"""Row length up to which the fused kernel, with gradients, is slower than plain products."""

_runs: ContextVar[int] = ContextVar("runs", default=0)


@contextmanager
def without_padding(runs: int = 1) -> Iterator[None]:
    """Let models with `Unpadding` compute without padding inside the context, where that pays off.

    A model's outputs for tokens are the same; for padding they differ. Dropout draws fewer numbers.

    Args:
        runs: the number of batches that are concatenated in each input of a model.
    """
    token = _runs.set(runs)
    try:
        yield
    finally:
        _runs.reset(token)


def _asked() -> int:
    """The `runs` of the enclosing `without_padding`; 0 if there is none, or under a compiler."""
    return 0 if torch.compiler.is_compiling() else _runs.get()


@dataclass(frozen=True)
class Layout:
    """The cells of a padded batch (n, length) that are kept, in order.

    Attributes:
        shape: n and length.
        cells: the indices of the kept cells in the flattened batch.
    """

    shape: tuple[int, int]
    cells: Tensor

    @classmethod
    def of(cls, mask: Tensor, runs: int = 1) -> "Layout | None":
        """Keep the cells that are not padding; return None if that is all of them, or none.

        Args:
            mask: 1 for tokens, 0 for padding, (n, length).
            runs: the number of concatenated batches. All keep equally many cells: as many as the
                one with the most tokens has, so the others keep some of their padding.
        """
        n, length = mask.shape
        cells = mask.reshape(runs, -1)
        most = int(cells.sum(1).max())
        if most in (0, cells.shape[1]):
            return None
        tokens_first = cells.argsort(dim=1, descending=True, stable=True)[:, :most]
        starts = torch.arange(runs, device=mask.device)[:, None] * cells.shape[1]
        return cls((n, length), (tokens_first.sort(dim=1).values + starts).flatten())

    def unpad(self, x: Tensor) -> Tensor:
        """Map (n, length, ...) to (1, cells, ...)."""
        return x.flatten(0, 1).index_select(0, self.cells)[None]

    def pad(self, x: Tensor) -> Tensor:
        """Map (1, cells, ...) to (n, length, ...), with zeros for padding."""
        n, length = self.shape
        cells = x.new_zeros(n * length, *x.shape[2:]).index_copy(0, self.cells, x[0])
        return cells.view(n, length, *x.shape[2:])

    def split(self, x: Tensor) -> Tensor:
        """Map (1, heads, cells, width) to (n, heads, length, width).

        Padding repeats a token of the same row, and its gradient is dropped: nothing that is
        computed for tokens may depend on padding.
        """
        (n, length), (_, heads, cells, width) = self.shape, x.shape
        places = self._places(heads)
        by_cell = x.transpose(1, 2).reshape(cells * heads, width)
        function: Any = _Taken  # mypy finds `apply` without types
        taken: Tensor = function.apply(by_cell, places.sources, places.kept)
        return taken.view(n, heads, length, width)

    def join(self, x: Tensor) -> Tensor:
        """Map (n, heads, length, width) to (1, cells, heads, width)."""
        heads, width = x.shape[1], x.shape[3]
        kept = self._places(heads).kept
        return x.reshape(-1, width).index_select(0, kept).view(1, -1, heads, width)

    @cached_property
    def _by_heads(self) -> "dict[int, _Places]":
        return {}

    def _places(self, heads: int) -> "_Places":
        if heads not in self._by_heads:
            self._by_heads[heads] = _Places.of(self, heads)
        return self._by_heads[heads]


@dataclass(frozen=True)
class _Places:
    """Where the rows of a layout's heads are in `split`'s output and in its input.

    Attributes:
        sources: for each row of the output (n, heads, length), in order, a row of the input (cells,
            heads).
        kept: for each row of the input, in order, its row of the output.
    """

    sources: Tensor
    kept: Tensor

    @classmethod
    def of(cls, layout: Layout, heads: int) -> "_Places":
        (n, length), cells = layout.shape, layout.cells
        by_head = torch.arange(heads, device=cells.device)
        row, place = cells // length, cells % length
        # Padding takes the first token of its own row: another row's run may have diverged.
        counts = row.bincount(minlength=n)
        firsts = (counts.cumsum(0) - counts).clamp(max=len(cells) - 1)
        numbers = firsts.repeat_interleave(length)
        numbers[cells] = torch.arange(len(cells), device=cells.device)
        sources = numbers.view(n, 1, length) * heads + by_head[:, None]
        kept = (row[:, None] * heads + by_head) * length + place[:, None]
        return cls(sources.flatten(), kept.flatten())


class _Taken(torch.autograd.Function):
    """Rows of `x` by index; the gradient of each comes from only one place, `kept`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sources: Tensor, kept: Tensor) -> Tensor:
        ctx.kept = kept
        return x.index_select(0, sources)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return g.index_select(0, ctx.kept), None, None


class Unpadding:
    """Removes the padding from a model's inputs inside `without_padding`.

    It does nothing on devices other than the CPU and for compiled models, which want few shapes;
    for calls without a mask (n, length) given by keyword; and for those that ask for intermediate
    results (`WITH_PADDING`).
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[nn.Module]) -> None:
        """Hook into every call of `model`, whose hidden states pass from layer to layer.

        A model whose attention is not SDPA is left as it is.
        """
        self._layout: Layout | None = None
        if model.config._attn_implementation != "sdpa":
            return
        model.config._attn_implementation = NAME
        model.register_forward_pre_hook(self._enter, with_kwargs=True)
        model.register_forward_hook(self._leave, always_call=True)
        layers[0].register_forward_pre_hook(self._first, with_kwargs=True)
        for layer in layers:
            layer.register_forward_pre_hook(self._each, with_kwargs=True)
        layers[-1].register_forward_hook(self._last)

    def _enter(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        self._layout = None
        runs = _asked()
        if (
            runs
            and isinstance(mask, Tensor)
            and mask.dim() == 2
            and mask.device.type == "cpu"
            and model.config._attn_implementation == NAME
            and not any(kwargs.get(name, _default(model, name)) for name in WITH_PADDING)
        ):
            self._layout = Layout.of(mask, runs)

    def _leave(self, *_: Any) -> None:
        self._layout = None

    def _first(
        self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._layout is None:
            return None
        h, *rest = args
        return (self._layout.unpad(h), *rest), kwargs

    def _each(
        self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        layout = self._layout
        if layout is None:
            return None
        added: dict[str, Any] = {"unpadded": layout}
        if rotations := kwargs.get("position_embeddings"):
            added["position_embeddings"] = tuple(
                layout.unpad(turned.expand(layout.shape[0], -1, -1)) for turned in rotations
            )
        return args, {**kwargs, **added}

    def _last(self, layer: Any, args: tuple[Any, ...], h: Tensor) -> Tensor:
        return h if self._layout is None else self._layout.pad(h)


def _default(model: Any, name: str) -> Any:
    """Return the value that an omitted argument stands for."""
    return getattr(model.config, name, None)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    unpadded: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute `softmax(scaling Q K^T + mask) V`, for padded inputs or those that a layout keeps.

    Args:
        module: the attention module.
        query: (n, heads, length, width); with a layout (1, heads, cells, width).
        key: like `query`, possibly with fewer heads.
        value: like `key`.
        attention_mask: true where a token is visible, (n, 1, length, length).
        dropout: the dropout probability of the attention weights.
        scaling: the factor on the scores.
        unpadded: the layout, if the inputs are unpadded.
        kwargs: further arguments of Transformers' own attention.

    Returns:
        The output, (n, length, heads, width) or (1, cells, heads, width).
    """
    if unpadded is not None:
        query, key, value = (unpadded.split(x) for x in (query, key, value))
    short = unpadded is not None and unpadded.shape[1] <= SHORT and torch.is_grad_enabled()
    if short or (dropout and query.device.type == "cpu" and _asked()):
        # On a CPU the fused kernel has no dropout; torch's fallback is slower than this, and
        # always draws from the global generator, ignoring the streams of packed runs.
        if attention_mask is None and _is_causal(module, **kwargs):
            attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
        out = _attention(query, key, value, attention_mask, dropout, scaling)
        return (out.transpose(1, 2) if unpadded is None else unpadded.join(out)), None
    out, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return (out if unpadded is None else unpadded.unpad(out)), None


def _is_causal(module: Any, is_causal: bool | None = None, **_: Any) -> bool:
    """Whether Transformers treats an attention without a mask as causal."""
    return getattr(module, "is_causal", True) if is_causal is None else is_causal


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    n, heads, length, width = query.shape
    groups = heads // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    query = query * (width**-0.5 if scaling is None else scaling)
    q, k, v = (x.flatten(0, 1) for x in (query, key, value))
    scores = _bias(mask, q, k, heads).baddbmm_(q, k.transpose(1, 2))
    weights = F.dropout(scores.softmax(-1), dropout)
    return torch.bmm(weights, v).view(n, heads, length, -1)


def _bias(mask: Tensor | None, q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Return what a mask adds to scores (n * heads, length, length), as a new tensor."""
    bias = q.new_zeros(q.shape[0] // heads, heads, q.shape[1], k.shape[1])
    if mask is not None and mask.dtype == torch.bool:
        # Not minus infinity: padding that sees nothing would have no finite gradient.
        hidden = torch.finfo(q.dtype).min
        bias += torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, hidden)
    elif mask is not None:
        bias += mask
    return bias.flatten(0, 1)


def mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """Call Transformers' own mask; on a GPU, without checking whether there is any padding.

    In every step, the CPU would have to wait for the GPU to finish before it had the answer.
    """
    if attention_mask is not None and attention_mask.device.type != "cpu" and _asked():
        kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    made: Tensor | None = sdpa_mask(*args, attention_mask=attention_mask, **kwargs)
    return made


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, mask)
