"""Matrices of an ONNX graph as 8-bit integers, one scale for each output channel and each row of an embedding.

Two forms, because the two runtimes want different ones:
* `dynamic` (onnxruntime): activations become 8 bits too, by their range at run time, and integers are multiplied.
* `weights` (OpenVINO): a `DequantizeLinear` before each product; the runtime keeps 8 bits in memory and chooses its own
  arithmetic.

Embeddings are gathered as integers and scaled after. Biases, norms and convolutions stay as they are: they are small.
Scheme: symmetric, -127..127, rounded to nearest.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from babelclip.errors import require

# Smaller matrices save nothing worth their rounding.
SMALLEST = 256
_STEPS = 127
_SMALLEST_SCALE = 1e-12


def quantized(matrix: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns int8 values (R, C) and float32 scales, one for each index of `axis`, whose product is near `matrix`."""
    largest = np.abs(matrix).max(axis=1 - axis).astype(np.float32)
    scales = np.maximum(largest / _STEPS, _SMALLEST_SCALE)
    integers = np.rint(matrix / np.expand_dims(scales, 1 - axis)).clip(-_STEPS, _STEPS).astype(np.int8)
    return integers, scales


def quantize(model: Any, form: str) -> int:
    """Replaces the large matrices of an `onnx_ir` model in place and returns how many.

    Args:
        model: the graph, in float32.
        form: "dynamic" or "weights" (see above).
    """
    require("onnx_ir", "export")
    shared: dict[str, tuple[Any, Any, Any]] = {}
    replaced = 0
    for node in list(model.graph):
        matrix = _matrix(node)
        if matrix is None:
            continue
        if node.op_type == "Gather":
            new, output = _gathered(node, matrix, model.graph)
        elif form == "dynamic":
            new, output = _multiplied(node, matrix, model.graph, shared)
        else:
            new, output = _dequantized(node, matrix, model.graph)
        _replace(model.graph, node, new, output)
        replaced += 1
    for value in [v for v in model.graph.initializers.values() if not v.uses() and not v.is_graph_output()]:
        del model.graph.initializers[value.name]
    return replaced


def _matrix(node: Any) -> np.ndarray | None:
    """Returns the weight of a product or of an embedding, or None for any other node."""
    position = {"MatMul": 1, "Gather": 0}.get(node.op_type)
    if position is None or (node.op_type == "Gather" and node.attributes.get_int("axis", 0) != 0):
        return None
    value = node.inputs[position]
    if value is None or not value.is_initializer() or value.const_value is None or len(value.shape) != 2:
        return None
    matrix = value.const_value.numpy()
    return matrix if matrix.dtype == np.float32 and matrix.size >= SMALLEST else None


def _gathered(node: Any, matrix: np.ndarray, graph: Any) -> tuple[list[Any], Any]:
    import onnx_ir as ir

    integers, scales = quantized(matrix, axis=0)
    name = node.inputs[0].name
    rows = ir.node("Gather", [_constant(graph, f"{name}.int8", integers), node.inputs[1]])
    row_scales = ir.node("Gather", [_constant(graph, f"{name}.scale", scales[:, None]), node.inputs[1]])
    floats = ir.node("Cast", [rows.outputs[0]], attributes={"to": ir.DataType.FLOAT})
    scaled = ir.node("Mul", [floats.outputs[0], row_scales.outputs[0]])
    return [rows, row_scales, floats, scaled], scaled.outputs[0]


def _multiplied(
    node: Any, matrix: np.ndarray, graph: Any, shared: dict[str, tuple[Any, Any, Any]]
) -> tuple[list[Any], Any]:
    """The pattern that onnxruntime fuses into one kernel; query, key and value share one quantised input."""
    import onnx_ir as ir

    integers, scales = quantized(matrix, axis=1)
    name = node.inputs[1].name
    nodes = []
    if node.inputs[0].name not in shared:
        activations = ir.node("DynamicQuantizeLinear", [node.inputs[0]], num_outputs=3)
        nodes.append(activations)
        shared[node.inputs[0].name] = tuple(activations.outputs)
    values, scale, zero = shared[node.inputs[0].name]
    product = ir.node(
        "MatMulInteger",
        [values, _constant(graph, f"{name}.int8", integers), zero, _constant(graph, "int8_zero", np.int8(0))],
    )
    floats = ir.node("Cast", [product.outputs[0]], attributes={"to": ir.DataType.FLOAT})
    both = ir.node("Mul", [scale, _constant(graph, f"{name}.scale", scales)])
    scaled = ir.node("Mul", [floats.outputs[0], both.outputs[0]])
    return [*nodes, product, floats, both, scaled], scaled.outputs[0]


def _dequantized(node: Any, matrix: np.ndarray, graph: Any) -> tuple[list[Any], Any]:
    import onnx_ir as ir

    integers, scales = quantized(matrix, axis=1)
    name = node.inputs[1].name
    weight = ir.node(
        "DequantizeLinear",
        [_constant(graph, f"{name}.int8", integers), _constant(graph, f"{name}.scale", scales)],
        attributes={"axis": 1},
    )
    product = ir.node("MatMul", [node.inputs[0], weight.outputs[0]])
    return [weight, product], product.outputs[0]


def _constant(graph: Any, name: str, array: np.ndarray) -> Any:
    """Returns the initializer of that name, made if it is new."""
    import onnx_ir as ir

    if name not in graph.initializers:
        value = ir.Value(name=name, const_value=ir.tensor(np.asarray(array), name=name))
        value.shape, value.dtype = value.const_value.shape, value.const_value.dtype
        graph.register_initializer(value)
    return graph.initializers[name]


def _replace(graph: Any, node: Any, new: list[Any], output: Any) -> None:
    import onnx_ir as ir

    old = node.outputs[0]
    output.shape, output.dtype = old.shape, old.dtype
    graph.insert_before(node, new)
    ir.convenience.replace_all_uses_with(old, output)
    graph.remove(node, safe=True)
