"""Fine-tuning: the trainer, the engines that make its steps, and the state that it saves."""
