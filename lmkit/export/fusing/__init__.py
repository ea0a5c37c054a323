"""The traced graph becomes the graph that is shipped: the same numbers in fewer, faster nodes.

In comes what torch traced, with a Transpose before every product and a dozen small operators for every
norm and rotation; out goes a graph of ONNX Runtime's own fused operators whose weights lie in the file as
the products read them. Every step here is exact, or it is not taken.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript.optimizer import optimize
from transformers.exporters.onnxruntime_fusions import fuse_for_onnxruntime

from lmkit.export.fusing.products import (
    add_biases_before_splits,
    drop_reshapes,
    hand_over_packed,
    multiply_plainly,
)
from lmkit.export.fusing.rewriting import MICROSOFT
from lmkit.export.fusing.weights import (
    lay_out_weights,
    name_as_in_torch,
    share_contents,
    share_equal_weights,
)

__all__ = ["MICROSOFT", "fuse", "share_contents"]


def fuse(model: ir.Model) -> None:
    """Rewrite `model` in place; its inputs, outputs and numbers stay."""
    name_as_in_torch(model.graph)
    share_equal_weights(model.graph)
    lay_out_weights(model.graph)
    # The rotations are recognised in folded form only. Shape inference would find nothing more here
    # and takes a third of the time.
    optimize(model, num_iterations=2, onnx_shape_inference=False)
    multiply_plainly(model.graph)
    fuse_for_onnxruntime(model, "cpu")
    drop_reshapes(model.graph)
    hand_over_packed(model.graph)
    add_biases_before_splits(model.graph)
    passes.RemoveUnusedNodesPass()(model)
    passes.ClearMetadataAndDocStringPass()(model)  # stack traces of this machine, half a megabyte
    model.opset_imports.setdefault(MICROSOFT, 1)
