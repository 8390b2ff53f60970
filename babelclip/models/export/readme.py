"""The README.md of an exported folder: what it holds, how it loads, where it departs, and whose work it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import babelclip
from babelclip.models.clip import Clip


def write_readme(
    folder: Path, clip: Clip, *, target: str, dtype: str, towers: Sequence[str], loads: str, notes: Sequence[str]
) -> None:
    """Writes README.md into an existing folder.

    Args:
        folder: the folder.
        clip: the model that was exported.
        target: the program that the folder is for.
        dtype: in which the weights are stored.
        towers: what was written.
        loads: Python that loads it.
        notes: what the program does otherwise than babelclip.
    """
    origin = clip.name or "a model"
    facts = {
        "exported from": f"{origin}{f' at revision {clip.revision}' if clip.revision else ''}",
        "by": f"babelclip {babelclip.__version__}",
        "embedding space": clip.space,
        "dimensions": str(clip.embed_dim),
        "towers": ", ".join(towers),
        "weights stored as": dtype,
        "logit scale (a factor)": "" if clip.logit_scale is None else repr(clip.logit_scale),
        "logit bias": "" if clip.logit_bias is None else repr(clip.logit_bias),
        "languages of training": " ".join(clip.languages),
    }
    lines = [f"# {origin} for {target}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items() if value]
    lines += ["", "Vectors compare only with vectors of the same embedding space.", ""]
    lines += ["## Load", "", "```python", loads.strip(), "```", ""]
    lines += ["## Where it departs from babelclip", ""]
    lines += [f"* {note}" for note in notes] or ["Nowhere that is known."]
    lines += ["", "## Sources and licences", ""]
    lines += [f"* {line}" for line in clip.attribution] or [
        "The model that was exported states none. Its licence holds for this copy too."
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
