"""Oracle environment: old (transformers 4.57). Writes preprocess_old.json: pixel hashes of its slow image processors.

They differ from the Pillow form of transformers 5 in one thing: transparency is dropped. They are told that channels
come last, because they take a picture of one or three pixels' height for one with channels first.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.golden.make.preprocess import TRANSFORMERS, describe, write

ENVIRONMENT = "old"


def main() -> None:
    import transformers
    from transformers.models.clip.image_processing_clip import CLIPImageProcessor
    from transformers.models.siglip.image_processing_siglip import SiglipImageProcessor

    cases = []
    for config in TRANSFORMERS:
        siglip = config.get("image_processor_type") == "SiglipImageProcessor"
        settings = {key: value for key, value in config.items() if not key.endswith("_type")}
        processor = (SiglipImageProcessor if siglip else CLIPImageProcessor)(**settings)

        def run(picture, processor=processor):
            return processor(picture, return_tensors="np", input_data_format="channels_last").pixel_values[0]

        cases.append(describe("transformers", config, run))
    write("preprocess_old.json", cases, {"transformers": transformers.__version__})


if __name__ == "__main__":
    main()
