"""Loads babelclip's exports to M-CLIP's layout by the original class: one line of JSON a case.

Usage: python tests/golden/exports_old.py FOLDER [RECORD]        (in the old oracle environment: multilingual-clip
1.0.10, transformers 4.57; FOLDER is what `python -m tests.golden.exports --keep FOLDER --out RECORD` left in another,
and to RECORD, where it is given, the cases of this run are added)

The class fetches a backbone before it loads the folder. Without a network the folder's own stands in for it.
`max_abs` is against the original's vectors of the golden model; texts longer than the backbone's positions are left
out, because the original class fails on them.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
import transformers
from multilingual_clip.pt_multilingual_clip import MultilingualCLIP

from tests.golden.inputs import TEXTS

GOLDEN = Path(__file__).parent


def main() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    rows = []
    for folder in sorted((Path(sys.argv[1]) / "mclip").iterdir()):
        model, report = MultilingualCLIP.from_pretrained(
            str(folder), modelBase=str(folder / "backbone"), output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
        kept = [row for row, text in enumerate(TEXTS) if len(tokenizer(text).input_ids) <= tokenizer.model_max_length]
        with np.load(GOLDEN / folder.name.rpartition("-")[0] / "expected.npz") as expected, torch.no_grad():
            found = model.forward([TEXTS[row] for row in kept], tokenizer).numpy()
            difference = float(np.abs(found.astype(np.float64) - expected["text"][kept]).max())
        missed = sum(len(names) for names in report.values())
        line = {"case": f"multilingual-clip's reading of {folder.name}", "array": "text", "items": len(kept)}
        rows.append({**line, "left_over": missed, "max_abs": difference})
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
    if len(sys.argv) > 2:
        record = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
        record["cases"] += rows
        record["versions_old"] = {name: version(name) for name in ("torch", "transformers", "multilingual-clip")}
        Path(sys.argv[2]).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
