"""Fine-tuning: the trainer, what makes its steps, and what it keeps."""
