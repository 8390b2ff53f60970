"""What a model may have seen of a benchmark in training, from `leaks.toml`. Entry point: `leak_notes`."""

from __future__ import annotations

import functools
import sys
from importlib import resources
from typing import Any

from babelclip import registry
from babelclip.evaluate.dataset_names import dataset_key

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def leak_notes(model: str, dataset: str) -> tuple[str, ...]:
    """Returns one sentence for each leak that is known of a model on a data set.

    Args:
        model: name, repository or path of the model; its card says to which family it belongs.
        dataset: name of the data set in any spelling (`XTD10`, `multilingual_mscoco_captions`).
    """
    card = registry.find(model)
    key = dataset_key(dataset)
    notes = []
    for leak in _leaks():
        families = leak.get("families")
        # A note without families is for a model without card: nothing tells what it was trained on.
        concerned = card is None if families is None else card is not None and card.family in families
        if concerned and key in leak["benchmarks"]:
            notes.append(f"{leak['note']} ({leak['source']})")
    return tuple(notes)


@functools.cache
def _leaks() -> tuple[dict[str, Any], ...]:
    text = resources.files("babelclip.evaluate").joinpath("leaks.toml").read_text("utf-8")
    return tuple(tomllib.loads(text)["leak"])
