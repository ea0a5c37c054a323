"""Bench: how fast a bundle is, how near to what the machine can do, and beside what else.

A side is a library with a model, in a process of its own (`worker`, `workers/`); `measuring` gives each
the same work in turn; `report` holds what was found, and `tables` and `plots` show it. Nothing here
imports torch, nor does a worker but those whose library does.
"""

from lmkit.benching.measuring import bench
from lmkit.benching.report import Figures, Report, Result, Spread, Work
from lmkit.benching.sides import PEERS, SideFailed

__all__ = ["PEERS", "Figures", "Report", "Result", "SideFailed", "Spread", "Work", "bench"]
