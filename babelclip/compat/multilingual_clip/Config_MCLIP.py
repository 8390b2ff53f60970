"""`MCLIPConfig`, as the original module of this name has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from babelclip.files import write_json
from babelclip.models.checkpoints.build import read_config


class MCLIPConfig:
    """What an M-CLIP of 2022 is built from; unknown keywords become attributes, as in the original.

    Upstream facts: the keywords `transformerDimSize` and `imageDimSize` are stored as `transformerDimensions` and
    `numDims`, and a file that has the stored names loads because unknown keywords are set after the defaults. The
    original is a `transformers.PretrainedConfig`; this class needs no transformers and has `to_dict`,
    `from_pretrained` and `save_pretrained` alone.
    """

    model_type = "M-CLIP"

    def __init__(
        self,
        modelBase: str = "xlm-roberta-large",
        transformerDimSize: int = 1024,
        imageDimSize: int = 768,
        **kwargs: Any,
    ) -> None:
        """Takes the backbone's hub name, its width H and the dimensions D of the space."""
        self.transformerDimensions = transformerDimSize
        self.numDims = imageDimSize
        self.modelBase = modelBase
        for name, value in kwargs.items():
            if name != "model_type":
                setattr(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Returns the content for `config.json`, under the stored names."""
        return {**vars(self), "model_type": self.model_type}

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> MCLIPConfig:
        """Returns the config in a model folder, or in a config.json given itself.

        Raises:
            BabelclipError: it is missing or no JSON object.
        """
        path = Path(folder)
        return cls(**read_config(path / "config.json" if path.is_dir() else path))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `config.json` into `folder`, which is made where it is missing."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_json(Path(folder) / "config.json", self.to_dict())
