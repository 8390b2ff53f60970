"""One key for all spellings of a data set's name: papers, clip_benchmark and babelclip call one set by three names.

Entry points: `dataset_key`, `dataset_title`, `usual_split`.
"""

from __future__ import annotations

import functools
import re

# Titles of the sets whose names differ from tool to tool, and the names under which other tools know them.
_TITLES = {
    "xtd10": "XTD10",
    "xm3600": "XM3600",
    "coco": "COCO",
    "cococn": "COCO-CN",
    "flickr30k": "Flickr30k",
    "flickr30kcn": "Flickr30k-CN",
    "flickr30k200": "Flickr30k-200",
    "xtd200": "XTD-200",
    "multi30k": "Multi30k",
    "xflickrco": "xFlickrCO",
    "imagenet": "ImageNet",
    "babelimagenet": "Babel-ImageNet",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "stsb": "STS-b",
    "wit": "WIT",
    "multi30ktexts": "Multi30k texts",
    "builtin": "built-in photographs",
}
_ALIASES = {
    "multilingualmscococaptions": "xtd10",
    "xtd": "xtd10",
    "crossmodal3600": "xm3600",
    "xm": "xm3600",
    "mscococaptions": "coco",
    "mscoco": "coco",
    "cocokarpathy": "coco",
    "imagenet1k": "imagenet",
    "stsbenchmark": "stsb",
    "babel": "babelimagenet",
}


def dataset_key(name: str) -> str:
    """Returns what all spellings of a data set's name have in common.

    The protocol in a name is left out: results state it in a field of its own.

    >>> dataset_key("wds/mscoco_captions"), dataset_key("XM3600"), dataset_key("xm3600-first")
    ('coco', 'xm3600', 'xm3600')
    """
    plain = name.strip().lower().removeprefix("wds/")
    for protocol in ("-first", "-lowercased", "-label"):
        plain = plain.removesuffix(protocol)
    plain = re.sub(r"[\s_\-./]", "", plain)
    return _ALIASES.get(plain, plain)


def dataset_title(key: str) -> str:
    """Returns how people write a data set's name."""
    return _TITLES.get(key, key)


def usual_split(key: str) -> str:
    """Returns the split of a data set that figures are published on.

    >>> usual_split("imagenet"), usual_split("xtd10")
    ('val', 'test')
    """
    return _usual_splits().get(key, "test")


@functools.cache
def _usual_splits() -> dict[str, str]:
    from babelclip.evaluate.benchmarks.catalog import entries

    return {dataset_key(entry.name): entry.splits[0] for entry in entries()}
