"""Appendix D written out from its equations in plain tensor operations, for the tests alone.

Letters: h the stream that enters a layer, a the stream after its attention, w the weights of a
layer by name, s a function that gives an adapter's output at a site.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PretrainedConfig

from heterolora.sites import Site

Weights = Mapping[str, Tensor]

OPT = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj"}
OPT |= {"o": "self_attn.out_proj", "up": "fc1", "down": "fc2"}
OPT |= {"ln1": "self_attn_layer_norm", "ln2": "final_layer_norm"}
BERT = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value"}
BERT |= {"o": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"}
BERT |= {"ln1": "attention.output.LayerNorm", "ln2": "output.LayerNorm"}
LLAMA = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj"}
LLAMA |= {"o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj"}
LLAMA |= {"down": "mlp.down_proj", "ln1": "input_layernorm", "ln2": "post_attention_layernorm"}
NAMES = {"opt": OPT, "bert": BERT, "roberta": BERT, "llama": LLAMA}


@dataclass
class Adapters:
    """A and B by site, those that are on, and the alpha of each kind of site."""

    a: Mapping[Site, Tensor]
    b: Mapping[Site, Tensor]
    on: frozenset[Site]
    alpha: Mapping[str, float]

    def __call__(self, layer: int, role: str, x: Tensor) -> Tensor | float:
        """`g (alpha / r) B A x`."""
        site = Site(layer, role)
        if site not in self.on:
            return 0.0
        a, b = self.a[site], self.b[site]
        return self.alpha[site.kind] / len(a) * torch.einsum("or,ri,bti->bto", b, a, x)


@dataclass
class Model:
    """The layers of a model.

    Attributes:
        config: of the model.
        weights: of each layer, by name.
        s: the adapters.
        renormalize: `always` or `enabled`.
    """

    config: PretrainedConfig
    weights: list[Weights]
    s: Adapters
    renormalize: str

    def layers(self, h: Tensor, mask: Tensor) -> Tensor:
        """From the stream before the first layer to that after the last; mask is (b, t)."""
        a: Tensor | None = None
        post = self.config.model_type in ("bert", "roberta") or not getattr(
            self.config, "do_layer_norm_before", True
        )
        for i in range(len(self.weights)):
            h, a = (self.post_norm if post else self.pre_norm)(i, h, a, mask)
        return h

    def post_norm(
        self, i: int, h: Tensor, below: Tensor | None, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The two equations at the end of Appendix D."""
        s, ln = self.s, self.norm
        a = ln(i, "ln1", h + s(i, "res1", h) + self.attention(i, h, mask))
        if self.outer(i, "cut"):
            assert below is not None
            a = ln(i, "ln1", a + s(i, "cut", below))
        up = ln(i, "ln2", a + s(i, "res2", a) + self.feed_forward(i, a))
        if self.outer(i, "in"):
            up = ln(i, "ln2", up + s(i, "in", h))
        return up, a

    def pre_norm(
        self, i: int, h: Tensor, below: Tensor | None, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same, in a stream that is never normalized."""
        s, ln = self.s, self.norm
        a = h + s(i, "res1", h) + self.attention(i, ln(i, "ln1", h), mask)
        if below is not None:
            a = a + s(i, "cut", below)
        up = a + s(i, "res2", a) + self.feed_forward(i, ln(i, "ln2", a)) + s(i, "in", h)
        return up, a

    def outer(self, i: int, role: str) -> bool:
        """Whether an outer norm stands."""
        return Site(i, role) in (self.s.a if self.renormalize == "always" else self.s.on)

    def norm(self, i: int, name: str, x: Tensor) -> Tensor:
        where = NAMES[self.config.model_type][name]
        weight = self.weights[i][f"{where}.weight"]
        if self.config.model_type == "llama":
            square = x.float().pow(2).mean(-1, keepdim=True)
            return weight * (x.float() / (square + self.config.rms_norm_eps).sqrt()).to(x.dtype)
        eps = getattr(self.config, "layer_norm_eps", 1e-5)
        centered = x - x.mean(-1, keepdim=True)
        scale = (centered.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        return centered / scale * weight + self.weights[i][f"{where}.bias"]

    def linear(self, i: int, role: str, x: Tensor) -> Tensor:
        where = NAMES[self.config.model_type][role]
        y = torch.einsum("oi,bti->bto", self.weights[i][f"{where}.weight"], x)
        return y + self.weights[i].get(f"{where}.bias", 0.0) + self.s(i, role, x)

    def feed_forward(self, i: int, x: Tensor) -> Tensor:
        up = self.linear(i, "up", x)
        if self.config.model_type == "llama":
            return self.linear(i, "down", F.silu(self.linear(i, "gate", x)) * up)
        return self.linear(i, "down", F.relu(up) if self.config.model_type == "opt" else F.gelu(up))

    def attention(self, i: int, x: Tensor, mask: Tensor) -> Tensor:
        """Softmax attention, causal but for BERT and RoBERTa; each head by itself."""
        heads = self.config.num_attention_heads
        width = self.config.hidden_size // heads
        q, k, v = (self.linear(i, role, x) for role in "qkv")
        allowed = mask.bool()[:, None, :].expand(-1, x.shape[1], -1)
        if self.config.model_type in ("opt", "llama"):
            allowed = allowed.tril()
        outputs = []
        for head in range(heads):
            group = head * (k.shape[-1] // width) // heads
            of_q = q[..., head * width : (head + 1) * width]
            of_k = k[..., group * width : (group + 1) * width]
            of_v = v[..., group * width : (group + 1) * width]
            if self.config.model_type == "llama":
                of_q, of_k = rotated(of_q), rotated(of_k)
            scores = torch.einsum("bqd,bkd->bqk", of_q, of_k) / width**0.5
            shares = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
            outputs.append(torch.einsum("bqk,bkd->bqd", shares, of_v))
        return self.linear(i, "o", torch.cat(outputs, -1))


def rotated(x: Tensor) -> Tensor:
    """Rotary positions: pairs (x_j, x_{j + d/2}) turned by t 10000^(-2j/d)."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-torch.arange(half) / half)
    angles = (torch.arange(x.shape[1])[:, None] * rates).to(x.dtype)
    left, right = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)
