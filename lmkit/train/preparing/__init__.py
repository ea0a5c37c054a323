"""Prepare: a task's records become rows on disk, once for all trainings that would make the same ones.

`caching` is the door: it asks `cachekey` what the rows depend on (of code, `codeprint` knows), looks for
them, and else has `preparer` read, transform and encode the source. `prepared` are the rows, mapped into
memory. `bars` shows how far it is.
"""
