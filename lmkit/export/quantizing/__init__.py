"""Smaller weights: a fused graph becomes one that reads fewer bytes for each token.

In comes the graph in float32, as `lmkit.export.fusing.fuse` leaves it; out goes a graph of the same inputs
and outputs whose constant matrices are stored in 4 or 8 bits, with a scale for each block of numbers.
`weights` finds the matrices and who reads them, `blocks` rounds them, `kernels` writes the operators that
read them, `plans` chooses which weight goes to which kernel.
"""

from lmkit.export.quantizing.quantize import Store, quantize

__all__ = ["Store", "quantize"]
