"""Where the library meets others: PEFT, and the Trainer of Transformers."""
