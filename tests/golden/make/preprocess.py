"""Oracle environment: current. Writes preprocess.json: pixel hashes of open_clip, OpenAI CLIP and transformers 5.

Each case is what a checkpoint's file says (or, for OpenAI, the resolution), so the tests read it as a reader does.
Run `python tests/golden/make/preprocess.py`; `preprocess_old.py` does the same for transformers 4.57.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

# In place of this folder, whose clip.py hides OpenAI's package.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[3]))

import numpy as np
import PIL

from tests.golden.make.common import GOLDEN
from tests.golden.many_pictures import many_pictures

ENVIRONMENT = "current"

OPEN_CLIP = [
    {"size": 32},
    {"size": 37, "interpolation": "bilinear", "resize_mode": "shortest"},
    {"size": [224, 224]},
    {"size": 32, "resize_mode": "squash", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    {"size": 45, "resize_mode": "squash", "interpolation": "bilinear"},
    {"size": 32, "resize_mode": "longest", "fill_color": 0},
    {"size": 51, "resize_mode": "longest", "fill_color": 127, "interpolation": "bicubic"},
]
OPENAI = [32, 33]
MEAN = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
TRANSFORMERS = [
    {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "resample": 3,
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "rescale_factor": 0.00392156862745098,
        "do_normalize": True,
        "do_convert_rgb": True,
        **MEAN,
    },
    # The schema of AltCLIP-m9, of OpenAI's older folders and of sentence-transformers: numbers, no rescale keys.
    {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "size": 33,
        "crop_size": 33,
        "resample": 3,
        "do_resize": True,
        "do_center_crop": True,
        "do_normalize": True,
        **MEAN,
    },
    {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}, "crop_size": 224},
    {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 33, "width": 33},
    },
    {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 21},
        "crop_size": {"height": 32, "width": 32},
    },
    # MetaCLIP 2: squashed.
    {"image_processor_type": "CLIPImageProcessor", "size": {"height": 36, "width": 36}, "do_center_crop": False},
    {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"height": 36, "width": 36},
        "crop_size": {"height": 36, "width": 36},
    },
    {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 32, "width": 32},
        "resample": 3,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": True,
    },
    {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 48, "width": 48},
        "resample": 2,
        "do_convert_rgb": True,
    },
]


def describe(origin: str, config: object, run: Callable[[object], np.ndarray]) -> dict[str, object]:
    """Returns one case: the hash of the pixels (3, size, size) float32 of each picture; null where the origin fails."""
    hashes: dict[str, str | None] = {}
    sample: list[float] = []
    for name, picture in many_pictures():
        try:
            pixels = np.ascontiguousarray(run(picture))
        except (ValueError, OSError, RuntimeError, TypeError) as error:
            sys.stderr.write(f"{origin} {config}: {name}: {error}\n")
            hashes[name] = None
            continue
        if pixels.dtype != np.float32 or pixels.shape[0] != 3:
            raise ValueError(f"{origin} gave {pixels.shape} {pixels.dtype} for {name}")
        hashes[name] = hashlib.sha256(pixels.astype("<f4").tobytes()).hexdigest()[:20]
        sample = [float(pixels[channel, 5, 7]) for channel in range(3)]
    return {"origin": origin, "config": config, "sample": sample, "hashes": hashes}


def write(name: str, cases: list[dict[str, object]], versions: dict[str, str]) -> None:
    """Writes the cases as JSON: to `--out DIR`, else beside the golden folders."""
    folder = Path(sys.argv[sys.argv.index("--out") + 1]) if "--out" in sys.argv else GOLDEN
    folder.mkdir(parents=True, exist_ok=True)
    content = {"versions": {**versions, "pillow": PIL.__version__, "numpy": np.__version__}, "cases": cases}
    (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    import tests.golden.make.torchvision_shim  # noqa: F401, I001

    import open_clip
    import torch
    import torchvision
    import transformers
    from clip.clip import _transform
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    cases = []
    for config in OPEN_CLIP:
        transform = image_transform_v2(PreprocessCfg(**merge_preprocess_dict(PreprocessCfg(), config)), is_train=False)
        cases.append(describe("open_clip", config, lambda picture, f=transform: f(picture).numpy()))
    for resolution in OPENAI:
        transform = _transform(resolution)
        cases.append(describe("openai", resolution, lambda picture, f=transform: f(picture).numpy()))
    classes = {
        "CLIPImageProcessor": transformers.CLIPImageProcessorPil,
        "CLIPFeatureExtractor": transformers.CLIPImageProcessorPil,
        "SiglipImageProcessor": transformers.SiglipImageProcessorPil,
    }
    for config in TRANSFORMERS:
        processor = classes[config.get("image_processor_type") or config["feature_extractor_type"]](
            **{key: value for key, value in config.items() if not key.endswith("_type")}
        )
        cases.append(describe("transformers", config, lambda p, f=processor: f(p, return_tensors="np").pixel_values[0]))
    versions = {
        "open_clip": open_clip.__version__,
        "clip-anytorch": version("clip-anytorch"),
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    write("preprocess.json", cases, versions)


if __name__ == "__main__":
    main()
