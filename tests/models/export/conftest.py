"""Tracing a tower takes seconds, so a tower that several tests export is traced once; each test gets its own copy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from babelclip.models.export import onnx


@pytest.fixture(scope="package", autouse=True)
def traced_once() -> Iterator[None]:
    stored: dict[str, bytes] = {}

    def cached(trace):
        def graph(tower, dtype="float32"):
            import onnx_ir as ir

            digest = hashlib.sha256(f"{trace.__name__} {dtype}".encode())
            for name, tensor in tower.state_dict().items():
                digest.update(f"{name} {tensor.dtype}".encode() + tensor.float().numpy().tobytes())
            key = digest.hexdigest()
            if key not in stored:
                stored[key] = ir.serde.serialize_model(trace(tower, dtype)).SerializeToString()
            return ir.from_proto(ir.serde.onnx.ModelProto.FromString(stored[key]))

        return graph

    with pytest.MonkeyPatch.context() as patch:
        for name in ("text_graph", "image_graph"):
            patch.setattr(onnx, name, cached(getattr(onnx, name)))
        yield
