"""Train a task on transformers' Trainer, and answer with the trained model through torch."""
