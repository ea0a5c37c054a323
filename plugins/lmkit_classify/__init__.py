"""The built-in task: a label chosen by prompt."""
