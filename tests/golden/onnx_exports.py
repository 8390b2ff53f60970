"""Exports every golden checkpoint and reads the files back: one line of JSON a tower.

Usage: python -m tests.golden.onnx_exports [onnx|openvino] [float32|float16|int8] [NAME ...]

Runs in babelclip's own environment with the extra `export`. Texts and pictures are those of inputs.py, as one batch and
one at a time. Minutes, which is why it is not among the tests.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import babelclip
from babelclip.errors import BabelclipError
from babelclip.models.export import export
from babelclip.models.export.runtime import open_exported
from tests.golden.inputs import TEXTS, pictures

GOLDEN = Path(__file__).parent


def cases(name: str, to: str, dtype: str) -> Iterator[dict]:
    clip = babelclip.load(GOLDEN / name, dtype="float32", device="cpu")
    for tower, items in (("text", TEXTS), ("image", pictures())):
        if getattr(clip, tower) is None:
            continue
        row = {"case": name, "to": to, "dtype": dtype, "tower": tower}
        with tempfile.TemporaryDirectory() as out:
            try:
                encoders = open_exported(export(clip, Path(out) / name, to=to, dtype=dtype, towers=tower), threads=1)
                encode = getattr(encoders, f"encode_{tower}")
                wanted = getattr(clip, f"encode_{tower}")(items)
                found = [encode(items), np.concatenate([encode([item]) for item in items])]
            except BabelclipError as error:
                yield {**row, "refused": str(error)}
                continue
        difference = max(float(np.abs(block - wanted).max()) for block in found)
        cosine = min(float((block * wanted).sum(axis=1).min()) for block in found)
        yield {**row, "items": len(items), "max_abs": difference, "min_cosine": cosine}


if __name__ == "__main__":
    chosen = sys.argv[1:]
    target = next((word for word in chosen if word in ("onnx", "openvino")), "onnx")
    kind = next((word for word in chosen if word in ("float32", "float16", "int8")), "float32")
    names = [word for word in chosen if word not in (target, kind)]
    for golden in names or sorted(path.parent.name for path in GOLDEN.glob("*/expected.npz")):
        for case in cases(golden, target, kind):
            sys.stdout.write(json.dumps(case) + "\n")
            sys.stdout.flush()
