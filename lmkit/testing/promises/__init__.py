"""The promises, one a module, in the order of a record's way.

Each has a function `check(case)` that returns where the promise is kept, and raises `Broken` or
`DoesNotApply` where it is not. Any other error that a task's part raises breaks the promise, too.
"""
