"""How the weights of a frozen model are kept in memory, and its attention is computed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig

Dtype = Literal["fp32", "bf16"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]
Quantization = Literal["8bit", "4bit"]

DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Storage:
    """How a checkpoint is loaded; what is trained is float32 whatever it says.

    Attributes:
        dtype: of the weights that are frozen, but for those that are quantized.
        attention: the implementation; None for what transformers chooses for the model.
        quantization: of the linear layers that are frozen: LLM.int8 (https://arxiv.org/abs/2208.07339)
            or NF4 with double quantization, as in QLoRA (https://arxiv.org/abs/2305.14314), both by
            bitsandbytes; None for none.
        device: on which quantized weights are made; None for the first accelerator.
    """

    dtype: Dtype = "fp32"
    attention: Attention | None = None
    quantization: Quantization | None = None
    device: str | None = None

    def options(self, whole: Iterable[str]) -> dict[str, Any]:
        """What `from_pretrained` is given.

        Args:
            whole: the modules of the model that are not to be quantized.

        Raises:
            ImportError: without bitsandbytes, where it is needed.
        """
        made: dict[str, Any] = {"dtype": DTYPES[self.dtype]}
        if self.attention is not None:
            made["attn_implementation"] = self.attention
        if self.quantization is not None:
            made["quantization_config"] = self._quantized(list(whole))
            if self.device is not None:
                made["device_map"] = {"": self.device}
        return made

    def _quantized(self, whole: list[str]) -> BitsAndBytesConfig:
        if self.quantization == "8bit":
            return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=DTYPES[self.dtype],
            llm_int8_skip_modules=whole,
        )
