"""Integrations with PEFT and with the Trainer of Transformers."""
