from pathlib import Path

import numpy as np
import pytest

from tests.smol.onnx_weights import dequantise_linear, read_onnx_weights


def test_each_output_column_has_its_own_scale_and_zero_point_and_comes_out_as_a_row() -> None:
    quantised = np.array([[10, -3], [20, 5], [-30, 1]], np.int8)  # 3 inputs, 2 outputs
    scale, zero_point = np.array([0.5, 2.0], np.float32), np.array([0, 1], np.int8)

    weight = dequantise_linear(quantised, scale, zero_point)

    assert weight.dtype == np.float32
    assert weight.tolist() == [[5.0, 10.0, -15.0], [-8.0, 8.0, 0.0]]


def test_the_difference_to_the_zero_point_does_not_wrap_around_in_eight_bits() -> None:
    weight = dequantise_linear(np.array([[-128]], np.int8), np.array([1.0], np.float32), np.array([127], np.int8))

    assert weight.tolist() == [[-255.0]]


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name: str, kind: int, dims: list[int], values: bytes) -> bytes:
    return field(5, b"".join(field(1, size) for size in dims) + field(2, kind) + field(8, name) + values)


def test_initialisers_are_read_from_raw_bytes_packed_floats_and_packed_integers(tmp_path: Path) -> None:
    graph = (
        tensor("raw", 3, [2, 2], field(9, bytes([1, 2, 0xFF, 0x80])))
        + tensor("floats", 1, [2], field(4, np.array([0.5, -1.5], "<f4").tobytes()))
        + tensor("integers", 3, [3], field(5, varint(-7) + varint(0) + varint(100)))
        + tensor("text", 8, [1], field(6, b"left out"))
    )
    path = tmp_path / "tiny.onnx"
    path.write_bytes(field(1, 7) + field(2, "a producer") + field(7, graph))

    tensors = read_onnx_weights(path).tensors

    assert {name: values.tolist() for name, values in tensors.items()} == {
        "raw": [[1, 2], [-1, -128]],
        "floats": [0.5, -1.5],
        "integers": [-7, 0, 100],
    }
    assert tensors["integers"].dtype == np.int8


def test_a_quantised_product_names_the_module_whose_weight_it_uses(tmp_path: Path) -> None:
    product = field(1, "x_quantized") + field(1, "MatMul_7_quantized") + field(1, "x_zero_point") + field(2, "y")
    graph = field(1, product + field(3, "/tower/layers.0/fc1/MatMul_quant") + field(4, "MatMulInteger"))
    graph += field(1, field(1, "a") + field(1, "b") + field(3, "/tower/layers.0/Add") + field(4, "Add"))
    path = tmp_path / "tiny.onnx"
    path.write_bytes(field(7, graph))

    assert read_onnx_weights(path).quantised_linears == {"tower.layers.0.fc1": "MatMul_7"}


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photo.onnx"
    path.write_bytes(bytes([0x0F, 0x00]))

    with pytest.raises(ValueError, match="not an ONNX file: wire type 7 at byte 1"):
        read_onnx_weights(path)
