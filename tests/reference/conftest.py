"""The tiny run and its bundle, which two folders' tests share."""

from exported import tiny_bundle, tiny_run

__all__ = ["tiny_bundle", "tiny_run"]
