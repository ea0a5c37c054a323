"""The built-in task: a masked language model: hidden tokens are guessed."""
