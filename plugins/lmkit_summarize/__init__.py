"""The built-in task: an article and its summary."""
