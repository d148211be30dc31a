"""You have a Trainer: let it allocate the ranks of its PEFT model as it trains.

python scripts/examples/trainer.py MODEL PARQUET OUT

MODEL is a name at the hub or a folder; PARQUET has the columns sentence1, sentence2 and label.
"""

import sys

from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from heterolora import HeteroLoRACallback

name, file, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(name)
rows = load_dataset("parquet", data_files=file, split="train").map(
    lambda row: tokenizer(row["sentence1"], row["sentence2"], truncation=True, max_length=128),
    remove_columns=["sentence1", "sentence2"],
)
model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=2)
# Up to 8 ranks at each query and value; as many in all as with 2 everywhere.
model = get_peft_model(
    model, LoraConfig(task_type="SEQ_CLS", r=8, target_modules=r".*\.(query|value|q_proj|v_proj)")
)
allocation = HeteroLoRACallback(budget_rank=2, proxy="gradnorm")

trainer = Trainer(
    model=model,
    args=TrainingArguments(out, num_train_epochs=2, learning_rate=1e-3, report_to=[]),
    train_dataset=rows,
    data_collator=DataCollatorWithPadding(tokenizer),
    callbacks=[allocation],
)
trainer.train()
allocation.to_peft(f"{out}/adapter")  # without what is off; PeftModel.from_pretrained loads it
