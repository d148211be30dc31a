"""You have a PEFT script: let the data say which modules get an adapter, and of what rank.

python scripts/examples/suggest.py MODEL PARQUET OUT

MODEL is a name at the hub or a folder; PARQUET has the columns sentence1, sentence2 and label.
"""

import sys

from datasets import load_dataset
from peft import get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

import heterolora

name, file, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=2)
rows = load_dataset("parquet", data_files=file, split="train").map(
    lambda row: tokenizer(row["sentence1"], row["sentence2"], truncation=True, max_length=128),
    remove_columns=["sentence1", "sentence2"],
)
loader = DataLoader(rows, batch_size=8, collate_fn=DataCollatorWithPadding(tokenizer))

found = heterolora.suggest(model, loader, budget_rank=2)
print(found)
model = get_peft_model(model, found.to_peft(lora_dropout=0.05))
model.print_trainable_parameters()
# ... your training ...
model.save_pretrained(out)
