"""Loads babelclip's exports of the golden AltCLIP by the programs they are made for: one line of JSON a case.

Usage: python -m tests.golden.exports        (in the current oracle environment)

`max_abs` is the largest absolute difference from the outputs in the golden folder, `left_over` how many tensors the
program missed or did not expect.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
import tests.golden.make.torchvision_shim  # noqa: F401, I001  (first, see there)

import numpy as np
import torch
import transformers

from babelclip.models.checkpoints import altclip
from babelclip.models.export.altclip import export_altclip
from babelclip.models.export.diffusers import export_diffusers
from tests.golden.inputs import TEXTS

GOLDEN = Path(__file__).parent
CONDITIONS = [TEXTS[0], TEXTS[2], TEXTS[5], "", TEXTS[-1]]


def hub_cases(out: Path) -> Iterator[dict]:
    """`AltCLIPModel` reads the hub layout."""
    for name in ("altclip_hub", "altclip_t5"):
        folder = export_altclip(altclip.load(GOLDEN / name, "both"), out / name)
        model, report = transformers.AltCLIPModel.from_pretrained(folder, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokens = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
        with np.load(GOLDEN / name / "expected.npz") as expected, torch.no_grad():
            found = {
                "text": model.get_text_features(tokens["input_ids"], tokens["attention_mask"]),
                "image": model.get_image_features(torch.from_numpy(expected["pixels"])),
            }
            for array, output in found.items():
                vectors = output if isinstance(output, torch.Tensor) else output.pooler_output
                yield case(name, array, vectors, expected[array], report)


def diffusers_cases(out: Path) -> Iterator[dict]:
    """`RobertaSeriesModelWithTransformation` reads the text encoder and computes the rule that was asked for."""
    from diffusers.pipelines.deprecated.alt_diffusion.modeling_roberta_series import (
        RobertaSeriesModelWithTransformation,
    )

    text = altclip.load(GOLDEN / "altclip_flagai", "text").text
    for rule in ("m9", "m18"):
        folder = export_diffusers(text, out / rule, preset=f"altdiffusion-{rule}")
        encoder, report = RobertaSeriesModelWithTransformation.from_pretrained(
            folder / "text_encoder", output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")
        tokens = tokenizer(CONDITIONS, padding="max_length", truncation=True, return_tensors="pt")
        with np.load(GOLDEN / "altclip_flagai" / "expected.npz") as expected, torch.no_grad():
            states = encoder.eval()(tokens["input_ids"], tokens["attention_mask"], return_dict=True)[0]
            yield case("diffusers", f"states_{rule}", states, expected[f"states_{rule}"], report)


def case(name: str, array: str, found: torch.Tensor, expected: np.ndarray, report: dict) -> dict:
    left_over = sum(len(names) for names in report.values())
    return {"case": f"export of {name}", "array": array, "items": len(expected), "left_over": left_over,
            "max_abs": float(np.abs(found.numpy().astype(np.float64) - expected).max())}  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for made in (hub_cases, diffusers_cases):
            for row in made(Path(folder)):
                sys.stdout.write(json.dumps(row) + "\n")
