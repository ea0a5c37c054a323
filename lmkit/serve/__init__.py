"""Bundles behind HTTP: the task's own prompt is made here, so that a client cannot get it wrong."""
