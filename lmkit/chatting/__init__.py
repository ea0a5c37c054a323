"""A conversation in a terminal or a pipe: what was said, what is said to it, and how an answer comes.

A line goes through this package so: `lines` reads it, `commands` tells a command from something said,
`dialogue` does the one or lets `talk` answer the other, and `screen` shows what came. `conversation`
holds what was said, in the form that the task's record has. Whatever answers is an `Answerer`, so a run
through torch is talked to as a bundle is.
"""
