"""The built-in task: a text, one character a token."""
