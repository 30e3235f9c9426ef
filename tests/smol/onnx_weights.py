"""Reads the weights of a dynamically quantised ONNX file without the onnx package, and turns them back into floats."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

# Field numbers of onnx.proto: ModelProto, GraphProto, NodeProto, TensorProto.
MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER = 1, 5
NODE_INPUT, NODE_NAME, NODE_OPERATOR = 1, 3, 4
TENSOR_DIMS, TENSOR_TYPE, TENSOR_FLOATS, TENSOR_INT32S, TENSOR_INT64S, TENSOR_NAME, TENSOR_RAW = 1, 2, 4, 5, 7, 8, 9
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
}


@dataclass(frozen=True)
class OnnxWeights:
    """What a graph stores.

    Args:
        tensors: Every initialiser of a type in `DTYPES`, by name.
        quantised_linears: Module path of each integer matrix product → name of its int8 weight, less `_quantized`.
    """

    tensors: dict[str, Array]
    quantised_linears: dict[str, str]


def read_onnx_weights(path: Path) -> OnnxWeights:
    """Read the initialisers of an ONNX file, and which Linear each quantised one belongs to."""
    tensors: dict[str, Array] = {}
    linears: dict[str, str] = {}
    for model_field, graph in _fields(memoryview(path.read_bytes())):
        if model_field != MODEL_GRAPH or isinstance(graph, int):
            continue
        for field, message in _fields(graph):
            if isinstance(message, int):
                continue
            if field == GRAPH_INITIALIZER:
                tensors.update(_tensor(message))
            elif field == GRAPH_NODE:
                linears.update(_quantised_linear(message))
    return OnnxWeights(tensors, linears)


def dequantise_linear(quantised: Array, scale: Array, zero_point: Array) -> Floats:
    """Return the float weight of a Linear whose columns are quantised one by one.

    Args:
        quantised: [in, out] int8, transposed as ONNX multiplies it.
        scale: [out] float32, one for each output column.
        zero_point: [out] int8.
    Returns:
        [out, in] float32 as torch stores it: scale · (quantised − zero_point).
    """
    # int8 − int8 may leave int8, so the difference is taken in a wider type.
    shifted = quantised.astype(np.int32) - zero_point.astype(np.int32)
    return np.ascontiguousarray((shifted.astype(np.float32) * scale.astype(np.float32)).T)


def _tensor(message: memoryview) -> dict[str, Array]:
    """Return one initialiser by its name; nothing for a type that holds no weight."""
    dims: list[int] = []
    name, kind = "", 0
    values: Array = np.empty(0)
    for field, value in _fields(message):
        if field == TENSOR_DIMS:
            dims += [value] if isinstance(value, int) else _varints(value)
        elif field == TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif isinstance(value, int):
            continue
        elif field == TENSOR_NAME:
            name = bytes(value).decode()
        elif field == TENSOR_RAW and kind in DTYPES:
            values = np.frombuffer(value, DTYPES[kind])
        elif field == TENSOR_FLOATS:
            values = np.frombuffer(value, "<f4")
        elif field in (TENSOR_INT32S, TENSOR_INT64S):
            # Negative numbers are sent as 64-bit two's complement.
            values = np.array(_varints(value), np.uint64).view(np.int64)
    return {name: values.astype(DTYPES[kind]).reshape(dims)} if kind in DTYPES else {}


def _quantised_linear(message: memoryview) -> dict[str, str]:
    """Return module path → weight name of a `MatMulInteger` node: its second input is the weight."""
    inputs: list[str] = []
    name = operator = ""
    for field, value in _fields(message):
        if isinstance(value, int):
            continue
        if field == NODE_INPUT:
            inputs.append(bytes(value).decode())
        elif field == NODE_NAME:
            name = bytes(value).decode()
        elif field == NODE_OPERATOR:
            operator = bytes(value).decode()
    if operator != "MatMulInteger":
        return {}
    # `/vision_model/encoder/layers.0/self_attn/q_proj/MatMul_quant`: the path to the module, then the operation.
    return {".".join(name.strip("/").split("/")[:-1]): inputs[1].removesuffix("_quantized")}


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield field number and value of each field of a protobuf message, in order."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire_type = key & 7
        if wire_type == 0:
            number, position = _varint(message, position)
            yield key >> 3, number
            continue
        if wire_type == 2:
            length, position = _varint(message, position)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"not an ONNX file: wire type {wire_type} at byte {position}")
        yield key >> 3, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return the number that starts at `position`, and where it ends."""
    number = shift = 0
    while True:
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, position


def _varints(message: memoryview) -> list[int]:
    """Return the numbers of a packed field."""
    numbers: list[int] = []
    position = 0
    while position < len(message):
        number, position = _varint(message, position)
        numbers.append(number)
    return numbers
