"""How a frozen model's weights are kept in memory, and how its attention is computed."""

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
    """How a checkpoint is loaded; whatever it says, parameters that are trained are float32.

    Attributes:
        dtype: the precision of frozen weights that are not quantized.
        attention: the attention implementation; None for what transformers chooses for the model.
        quantization: the quantization of frozen linear layers by bitsandbytes: LLM.int8
            (https://arxiv.org/abs/2208.07339), or NF4 with double quantization, as in QLoRA
            (https://arxiv.org/abs/2305.14314); None for no quantization.
        device: the device on which quantized weights are created; None for the first accelerator.
    """

    dtype: Dtype = "fp32"
    attention: Attention | None = None
    quantization: Quantization | None = None
    device: str | None = None

    def options(self, whole: Iterable[str]) -> dict[str, Any]:
        """Return the arguments for `from_pretrained`.

        Args:
            whole: the names of the modules that are not to be quantized.

        Raises:
            ImportError: if bitsandbytes is needed and not installed.
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
