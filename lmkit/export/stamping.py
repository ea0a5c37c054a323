"""Layers that are alike are traced a few times, and the others are stamped from them.

torch needs a second for each layer that it traces and the fusions half a second, whatever its size: 45 s for
the 30 layers of SmolLM2-135M. In comes the fused graph of a model cut down to its first `TRACED` layers;
out goes that of the whole model, whose further layers are copies of a middle one with their own weights.

A step from one layer to the next must look the same twice in the traced graph, node by node and weight by
weight, or nothing is stamped: the caller then traces every layer. What is stamped is compared with torch
like any other graph before a bundle is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import onnx_ir as ir
import torch
from transformers import PreTrainedModel

from lmkit.export.fusing.rewriting import initializer

TRACED = 4  # a first, two that are compared, and a last
_TRANSPOSED = ".transposed"
_PAST = re.compile(r"(past_key_values|present)\.(\d+)\.(key|value)")


def stack_of(model: PreTrainedModel, n_layers: int) -> str | None:
    """Return the name of the list of a model's layers, if they are many and differ in weights alone."""
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == n_layers
    ]
    if len(found) != 1 or n_layers <= TRACED + 1:
        return None
    name, layers = found[0]
    settings = vars(model.config.get_text_config()).values()
    by_layer = [each for each in settings if isinstance(each, list) and len(each) == n_layers]
    if any(each != each[:1] * n_layers for each in by_layer):
        return None
    facts = [list(_facts(layer)) for layer in layers]
    return name if all(fact == facts[0] for fact in facts) else None


def _facts(layer: torch.nn.Module) -> Iterator[tuple[object, ...]]:
    """Yield what a layer is besides its weights: their shapes, and its modules' plain attributes."""
    for key, tensor in layer.state_dict().items():
        yield key, tensor.shape
    for name, module in layer.named_modules():
        yield name, type(module)
        for key, value in vars(module).items():
            if isinstance(value, (int, float, str)) and key != "layer_idx":
                yield name, key, value


@contextmanager
def cut_down(model: PreTrainedModel, stack: str) -> Iterator[None]:
    """Leave a model its first layers only for a while."""
    parent, _, name = stack.rpartition(".")
    holder, config = model.get_submodule(parent), model.config.get_text_config()
    layers, n_layers = getattr(holder, name), config.num_hidden_layers
    try:
        setattr(holder, name, torch.nn.ModuleList(list(layers)[:TRACED]))
        config.num_hidden_layers = TRACED
        yield
    finally:
        setattr(holder, name, layers)
        config.num_hidden_layers = n_layers


def stamp(graph: ir.Graph, model: PreTrainedModel, stack: str, n_layers: int) -> bool:
    """Add the layers that were not traced, in place.

    Args:
        graph: a fused causal graph of `TRACED` layers, with a GroupQueryAttention in each.
        model: the whole model.
        stack: the name of the list of its layers.
        n_layers: how many it has.
    Returns:
        whether the traced layers repeat; if not, the graph is as it was.
    """
    return _Stamp(graph, model, f"{stack}.").repeat(n_layers)


class _Stamp:
    def __init__(self, graph: ir.Graph, model: PreTrainedModel, prefix: str) -> None:
        self.graph = graph
        self.prefix = prefix
        self.weights: Mapping[str, torch.Tensor] = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        self.level: dict[ir.Node, int] = {}
        self.steps: list[list[ir.Node]] = [[] for _ in range(TRACED)]
        self._sort_by_level()

    def _sort_by_level(self) -> None:
        """Sort the nodes by the last attention that they depend on; -1 for none."""
        n_attentions = 0
        for node in self.graph:
            sources = [value.producer() for value in node.inputs if value is not None]
            before = [self.level[source] for source in sources if source is not None]
            level = max(before, default=-1)
            if node.op_type == "GroupQueryAttention":
                level, n_attentions = n_attentions, n_attentions + 1
            self.level[node] = level
            if 0 <= level < TRACED:
                self.steps[level].append(node)

    def repeat(self, n_layers: int) -> bool:
        first, middle, template, last = self.steps
        kinds = [[node.op_type for node in step] for step in (first, middle, template)]
        if kinds[0] != kinds[1] or kinds[1] != kinds[2] or not self._alike(middle, template):
            return False
        missing = [
            self._weight_name(value.name, shift)
            for step in (template, last)
            for value in self._own_weights(step)
            for shift in range(n_layers - TRACED + 1)
        ]
        ours = {self.level[p] for p in self._producers(last)} <= {-1, TRACED - 2, TRACED - 1}
        if None in missing or not ours:
            return False
        self._write(n_layers)
        return True

    def _producers(self, nodes: Sequence[ir.Node]) -> Iterator[ir.Node]:
        for node in nodes:
            for value in node.inputs:
                producer = value.producer() if value is not None else None
                if producer is not None:
                    yield producer

    def _alike(self, middle: Sequence[ir.Node], template: Sequence[ir.Node]) -> bool:
        """Say whether one step is the other, one layer on."""
        later = {
            **self._pairs(self.steps[0], middle),
            **self._pairs(middle, template),
        }
        for node, other in zip(middle, template, strict=True):
            if len(node.inputs) != len(other.inputs) or dict(node.attributes) != dict(
                other.attributes
            ):
                return False
            for value, wanted in zip(node.inputs, other.inputs, strict=True):
                if value is wanted and (value is None or value not in later):
                    if value is not None and self._is_own(value.name):
                        return False
                elif value is None or wanted is None:
                    return False
                elif value in later:
                    if later[value] is not wanted:
                        return False
                elif self._shifted(value.name, 1) != wanted.name:
                    return False
        return True

    @staticmethod
    def _pairs(nodes: Sequence[ir.Node], others: Sequence[ir.Node]) -> dict[ir.Value, ir.Value]:
        return {
            value: other
            for node, twin in zip(nodes, others, strict=True)
            for value, other in zip(node.outputs, twin.outputs, strict=True)
        }

    def _is_own(self, name: str | None) -> bool:
        """Say whether a weight or a buffer of keys is one layer's own."""
        return name is not None and (name.startswith(self.prefix) or bool(_PAST.fullmatch(name)))

    def _shifted(self, name: str | None, shift: int) -> str | None:
        """Return the same name for a later layer; None if it names none."""
        if name is None:
            return None
        found = _PAST.fullmatch(name)
        if found:
            return f"{found[1]}.{int(found[2]) + shift}.{found[3]}"
        number, _, rest = name.removeprefix(self.prefix).partition(".")
        if not name.startswith(self.prefix) or not number.isdigit():
            return None
        return f"{self.prefix}{int(number) + shift}.{rest}"

    def _own_weights(self, nodes: Sequence[ir.Node]) -> list[ir.Value]:
        values = [value for node in nodes for value in node.inputs if value is not None]
        return [v for v in values if v.const_value is not None and self._is_own(v.name)]

    def _weight_name(self, name: str | None, shift: int) -> str | None:
        """Return the name of a later layer's weight, if the model has that."""
        shifted = self._shifted(name, shift)
        known = shifted is not None and shifted.removesuffix(_TRANSPOSED) in self.weights
        return shifted if known else None

    def _weight(self, name: str) -> ir.Value:
        """Return a weight of the model, in its memory."""
        if name in self.graph.initializers:
            return self.graph.initializers[name]
        array = self.weights[name.removesuffix(_TRANSPOSED)].detach().cpu().numpy()
        return initializer(self.graph, name, array.T if name.endswith(_TRANSPOSED) else array)

    def _write(self, n_layers: int) -> None:
        _, middle, template, last = self.steps
        inputs = {value.name: value for value in self.graph.inputs}
        outputs = {value.name: value for value in self.graph.outputs}
        shift = n_layers - TRACED
        tail_inputs = {
            value: self._shifted(value.name, shift)
            for node in last
            for value in node.inputs
            if value is not None and value.name in inputs and self._is_own(value.name)
        }
        for value, name in tail_inputs.items():  # the last layer's buffers are the last ones now
            del inputs[value.name]
            value.name = name
            inputs[name] = value
        for name in [name for name in outputs if (self._level_of(name) or 0) == TRACED - 1]:
            value = outputs.pop(name)
            value.name = self._shifted(name, shift)
            outputs[value.name] = value
        before = self._pairs(middle, template)  # the step before the one that is written
        for number in range(1, shift + 1):
            after: dict[ir.Value, ir.Value] = {}
            for node in template:
                twin = self._twin(node, number, after, before, inputs)
                self.graph.insert_before(last[0], twin)
                for output, other in zip(node.outputs, twin.outputs, strict=True):
                    after[output] = other
                    if output.name in outputs:
                        outputs[other.name] = other
            before = {value: after[twin] for value, twin in self._pairs(middle, template).items()}
        ends = {twin: before[value] for value, twin in self._pairs(middle, template).items()}
        for node in last:
            for index, value in enumerate(node.inputs):
                if value in ends:
                    node.replace_input_with(index, ends[value])
                elif value is not None and value.const_value is not None:
                    name = self._weight_name(value.name, shift)
                    if name is not None and self._is_own(value.name):
                        node.replace_input_with(index, self._weight(name))
        self._order(inputs, outputs)

    def _level_of(self, name: str | None) -> int | None:
        found = _PAST.fullmatch(name or "")
        return int(found[2]) if found else None

    def _twin(
        self,
        node: ir.Node,
        number: int,
        after: Mapping[ir.Value, ir.Value],
        before: Mapping[ir.Value, ir.Value],
        inputs: dict[str | None, ir.Value],
    ) -> ir.Node:
        """Return the node of a later layer, that many layers on."""
        read: list[ir.Value | None] = []
        for value in node.inputs:
            if value is None or value in after or value in before:
                read.append(None if value is None else after.get(value, before.get(value)))
            elif not self._is_own(value.name):
                read.append(value)
            elif value.const_value is not None:
                name = self._weight_name(value.name, number)
                assert name is not None
                read.append(self._weight(name))
            else:
                name = self._shifted(value.name, number)
                if name not in inputs:
                    inputs[name] = ir.Value(name=name, shape=value.shape, type=value.type)
                read.append(inputs[name])
        twin = ir.Node(
            node.domain, node.op_type, read, node.attributes.values(), num_outputs=len(node.outputs)
        )
        for value, other in zip(node.outputs, twin.outputs, strict=True):
            other.name = self._shifted(value.name, number) or f"{value.name}.layer_{number}"
            other.shape, other.type = value.shape, value.type
        return twin

    def _order(
        self, inputs: dict[str | None, ir.Value], outputs: dict[str | None, ir.Value]
    ) -> None:
        """Put the ports in the layers' order."""

        def place(name: str | None) -> tuple[int, bool]:
            level = self._level_of(name)
            return (-1 if level is None else level, str(name).endswith(".value"))

        for ports, values in ((self.graph.inputs, inputs), (self.graph.outputs, outputs)):
            ports.clear()
            ports.extend(values[name] for name in sorted(values, key=place))
        self.graph.sort()
