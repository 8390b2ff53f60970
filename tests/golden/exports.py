"""Loads babelclip's exports of golden models by the programs they are made for: one line of JSON a case.

Usage: python -m tests.golden.exports [--keep FOLDER] [--out FILE]        (in the current oracle environment)

`max_abs` is the largest absolute difference from the outputs in the golden folder, `items` how many texts or pictures
were compared, `left_over` how many tensors the program missed or did not expect. Left out are the texts and pictures
that the program prepares otherwise than the model's origin, as the README of the export says. `--keep` leaves the
exports in FOLDER, where `tests/golden/exports_old.py` finds those for the original M-CLIP class, which wants an older
transformers. `--out` writes every case with the versions.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
import tests.golden.make.torchvision_shim  # noqa: F401, I001  (first, see there)

import numpy as np
import torch
import transformers

import babelclip
from babelclip.models.checkpoints import altclip
from babelclip.models.checkpoints.files.preprocess_files import preprocess_from_hf, preprocess_from_open_clip
from babelclip.models.clip import Clip
from babelclip.models.export.altclip import export_altclip
from babelclip.models.export.diffusers import export_diffusers
from babelclip.models.export.mclip import export_mclip
from babelclip.models.export.openclip import export_openclip
from babelclip.models.export.sentence_transformers import export_sentence_transformers
from tests.golden.inputs import TEXTS, pictures

GOLDEN = Path(__file__).parent
CONDITIONS = [TEXTS[0], TEXTS[2], TEXTS[5], "", TEXTS[-1]]
MCLIP = ("mclip_xlmr", "mclip_inline", "mclip_distilbert", "mclip_bert", "tensorflow_mclip")
TRUNKS = {
    "openclip_siglip": "vit_base_patch16_siglip_256",
    "openclip_siglip_tanh": "vit_so400m_patch16_siglip_256",
    "openclip_nllb_siglip": "vit_so400m_patch14_siglip_384",
}
OPENCLIP = ("openclip_xlmr", "openclip_xlmr_bundle", "openclip_vit", "openclip_vit_quickgelu", "openclip_worldwide",
            *TRUNKS)  # fmt: skip
SENTENCE = ("mclip_xlmr", "mclip_distilbert", "mclip_bert", "contrastive_tension_swedish", "sentence_transformers_6",
            "altclip_hub", "clip", "metaclip2", "openclip_xlmr", "openclip_vit", "openclip_worldwide")  # fmt: skip
DTYPES = ("float32", "float16")


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
                yield case(name, array, vectors, expected[array], left_over(report))


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
            yield case("diffusers", f"states_{rule}", states, expected[f"states_{rule}"], left_over(report))


def sentence_transformers_cases(out: Path) -> Iterator[dict]:
    """`SentenceTransformer` reads one folder with both towers: texts and pictures go to their own."""
    from sentence_transformers import SentenceTransformer

    for name in SENTENCE:
        clip = babelclip.load(GOLDEN / name, device="cpu")
        rows = alike_texts(clip, repairs=False)
        for dtype in DTYPES:
            folder = export_sentence_transformers(clip, out / f"{name}-{dtype}", dtype=dtype)
            model = SentenceTransformer(str(folder), device="cpu")
            label = f"sentence-transformers of {name}, {dtype}"
            with np.load(GOLDEN / name / "expected.npz") as expected:
                yield case(label, "text", model.encode([TEXTS[row] for row in rows]), expected["text"][rows])
                if clip.image is None or "image" not in expected:
                    continue
                place = folder / "image_0_Transformer" / "preprocessor_config.json"
                theirs = preprocess_from_hf(json.loads(place.read_text()))
                kept = alike_pictures(clip, theirs, len(expected["image"]))
                found = model.encode([pictures()[row] for row in kept])
                yield case(label, "image", found, expected["image"][kept])


def openclip_cases(out: Path) -> Iterator[dict]:
    """open_clip reads a bundle by `local-dir:`, without a network; a moved one by the way its README shows."""
    import open_clip

    from tests.golden.make.openclip import tiny_trunks

    tiny_trunks()
    for name in OPENCLIP:
        clip = babelclip.load(GOLDEN / name, device="cpu")
        for dtype in DTYPES:
            folder = export_openclip(clip, out / f"{name}-{dtype}", dtype=dtype, timm_model_name=TRUNKS.get(name))
            label = f"open_clip of {name}, {dtype}"
            yield from openclip_read(open_clip, label, name, clip, folder)
    moved = Path(shutil.move(out / "openclip_xlmr-float32", out / "moved"))
    text_cfg = json.loads((moved / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    text_cfg["hf_model_name"] = str(moved)
    clip = babelclip.load(moved, device="cpu")
    yield from openclip_read(open_clip, "open_clip of a moved bundle", "openclip_xlmr", clip, moved, text_cfg=text_cfg)


def openclip_read(open_clip, label: str, name: str, clip: Clip, folder: Path, **settings) -> Iterator[dict]:
    """The two cases of one bundle."""
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}", **settings)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    with np.load(GOLDEN / name / "expected.npz") as expected, torch.no_grad():
        yield case(label, "text", model.encode_text(tokenizer(TEXTS)), expected["text"])
        theirs = preprocess_from_open_clip({**preprocess_cfg(folder), "size": clip.image.preprocess.crop})
        kept = alike_pictures(clip, theirs, len(expected["image"]))
        pixels = torch.stack([preprocess(pictures()[row]) for row in kept])
        yield case(label, "image", model.encode_image(pixels), expected["image"][kept])


def mclip_exports(out: Path) -> Iterator[dict]:
    """Writes what `exports_old.py` reads, and reads it by babelclip."""
    for name in MCLIP:
        clip = babelclip.load(GOLDEN / name, device="cpu")
        for dtype in DTYPES:
            folder = export_mclip(clip, out / f"{name}-{dtype}", dtype=dtype)
            back = babelclip.load(folder, device="cpu").encode_text(TEXTS, normalize=False)
            with np.load(GOLDEN / name / "expected.npz") as expected:
                yield case(f"babelclip's reading of M-CLIP from {name}, {dtype}", "text", back, expected["text"])


def preprocess_cfg(folder: Path) -> dict:
    """What a bundle says about pictures."""
    return json.loads((folder / "open_clip_config.json").read_text())["preprocess_cfg"]


def alike_texts(clip: Clip, repairs: bool) -> list[int]:
    """Positions of the texts that the program gives the same tokens as the model's origin."""
    cleaned = clip.text.tokenizer.cleaning in ("whitespace", "lower", "canonicalize")
    return [row for row, text in enumerate(TEXTS) if repairs or not cleaned or "&amp;" not in text]


def alike_pictures(clip: Clip, theirs: Callable, most: int) -> list[int]:
    """Positions of the pictures that the program prepares to the same pixels as the model's origin."""
    ours = clip.image.preprocess
    return [row for row, made in enumerate(pictures()[:most]) if np.array_equal(ours(made), theirs(made))]


def case(name: str, array: str, found: torch.Tensor | np.ndarray, expected: np.ndarray, left: int = 0) -> dict:
    """One line: the largest difference of two arrays."""
    found = found.numpy() if isinstance(found, torch.Tensor) else found
    return {"case": f"export of {name}", "array": array, "items": len(expected), "left_over": left,
            "max_abs": float(np.abs(found.astype(np.float64) - expected).max())}  # fmt: skip


def left_over(report: dict) -> int:
    """How many tensors a transformers class missed or did not expect."""
    return sum(len(names) for names in report.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="where the exports are left")
    parser.add_argument("--out", type=Path, help="a JSON file for all cases and the versions")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        out = chosen.keep or Path(temporary)
        made = (hub_cases, diffusers_cases, sentence_transformers_cases, openclip_cases, mclip_exports)
        for cases in made:
            for row in cases(out / cases.__name__.rpartition("_")[0]):
                rows.append(row)
                sys.stdout.write(json.dumps(row) + "\n")
    if chosen.out:
        names = ("torch", "torchvision", "transformers", "sentence-transformers", "open_clip_torch", "timm",
                 "diffusers", "pillow", "numpy")  # fmt: skip
        record = {
            "job": "exports read by their own libraries",
            "date": datetime.date.today().isoformat(),
            "command": " ".join(["python", "-m", "tests.golden.exports", *sys.argv[1:]]),
            "versions": {name: version(name) for name in names},
            "cases": rows,
        }
        chosen.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
