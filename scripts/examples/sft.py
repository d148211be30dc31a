"""You tune a language model with TRL: let it allocate the ranks as it trains.

python scripts/examples/sft.py MODEL JSONL OUT

MODEL is a name at the hub or a folder; JSONL has a text in each line: {"text": "..."}.
"""

import sys

import torch
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from heterolora import HeteroLoRACallback

name, file, out = sys.argv[1:]
allocation = HeteroLoRACallback(budget_rank=2, proxy="gradnorm", selection="proportional")
trainer = SFTTrainer(
    model=name,
    args=SFTConfig(
        out,
        num_train_epochs=2,
        max_length=512,
        bf16=torch.cuda.is_available(),
        report_to=[],
    ),
    train_dataset=load_dataset("json", data_files=file, split="train"),
    peft_config=LoraConfig(r=8, target_modules=["q_proj", "v_proj"]),
    callbacks=[allocation],
)
trainer.train()
allocation.to_peft(f"{out}/adapter")  # without what is off; PeftModel.from_pretrained loads it
