"""The traced graph becomes the graph that is shipped: the same numbers in fewer, faster nodes.

In comes what torch traced, with a Transpose before every product and a dozen small operators for every
norm and rotation; out goes a graph of ONNX Runtime's own fused operators whose weights lie in the file as
the products read them. Every step here is exact, or it is not taken.
"""

from __future__ import annotations

from contextlib import nullcontext

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript.optimizer import optimize
from transformers.exporters.onnxruntime_fusions import fuse_for_onnxruntime

from lmkit.export.fusing.keeping import keep_last_logits
from lmkit.export.fusing.packing import pack_attention, weights_aside
from lmkit.export.fusing.products import (
    add_biases_before_splits,
    drop_reshapes,
    hand_over_packed,
    multiply_plainly,
)
from lmkit.export.fusing.rewriting import MICROSOFT
from lmkit.export.fusing.rotary import rotate_within_attention
from lmkit.export.fusing.weights import (
    lay_out_weights,
    name_as_in_torch,
    share_contents,
    share_equal_weights,
)
from lmkit.export.tracing import watch

__all__ = ["MICROSOFT", "finish_causal", "fuse", "share_contents"]


def fuse(model: ir.Model, *, pack: bool = True) -> None:
    """Rewrite `model` in place; its inputs, outputs and numbers stay.

    Args:
        model: what torch traced.
        pack: whether products that read one input become one, whose result is split.
    """
    name_as_in_torch(model.graph)
    share_equal_weights(model.graph)
    lay_out_weights(model.graph)
    # The rotations are recognised in folded form only. Shape inference would find nothing more here
    # and takes a third of the time.
    optimize(model, num_iterations=2, onnx_shape_inference=False)
    multiply_plainly(model.graph)
    watch(model)
    with nullcontext() if pack else weights_aside(model.graph):
        fuse_for_onnxruntime(model, "cpu")
    drop_reshapes(model.graph)
    hand_over_packed(model.graph)
    add_biases_before_splits(model.graph)
    passes.RemoveUnusedNodesPass()(model)
    passes.ClearMetadataAndDocStringPass()(model)  # stack traces of this machine, half a megabyte
    model.opset_imports.setdefault(MICROSOFT, 1)


def finish_causal(model: ir.Model, n_positions: int | None) -> None:
    """Let attentions rotate and read packed, and a caller ask for the last positions' logits, in place.

    Args:
        model: what `fuse` left unpacked, with a GroupQueryAttention in every layer.
        n_positions: the most tokens of a text; None where there is no limit.
    """
    rotate_within_attention(model, n_positions)
    passes.RemoveUnusedNodesPass()(model)  # the rotations, which also read what is packed next
    pack_attention(model.graph)
    passes.RemoveUnusedNodesPass()(model)
    keep_last_logits(model.graph)
