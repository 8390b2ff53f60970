"""Object storage: every path of every verb may be `s3://bucket/name`, and `gs://`, `abfs://` or `hdfs://` alike.

It goes through pyarrow's own file systems: they come with pyarrow, which is needed in any case, they read and write
without Python's lock, and fsspec would bring s3fs, which pins an old boto3 and a second event loop. The endpoint and
the keys come from the environment, as everywhere: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, or what else the AWS SDK finds (profiles, roles of machines).

What reads takes a path from `shadow` or `local`, what writes from `output`; a path on disk passes through unchanged:

    shadow(url)     a folder in the cache with the names, sizes and times that lie at `url`; contents come when read
    present(path)   before a file is opened: fetches it where it is such a name without content
    local(url)      the same, with all contents: models, benchmarks, anything small
    output(url)     a context: a folder in the cache, published while the work goes on and at its end
    publish(folder, url)    data first, manifests last, only what changed
    lock(url)       the right to write there, by one process of any machine at a time

`objects.py` has single objects: `exists`, `list_files`, `read_bytes`, `write_bytes`, `upload`, `delete`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from babelclip.storage.addresses import address as address
    from babelclip.storage.addresses import is_url as is_url
    from babelclip.storage.addresses import joined as joined
    from babelclip.storage.addresses import name_of as name_of
    from babelclip.storage.addresses import url_of as url_of
    from babelclip.storage.addresses import with_addresses as with_addresses
    from babelclip.storage.filesystem import lance_options as lance_options
    from babelclip.storage.locks import Lock as Lock
    from babelclip.storage.locks import lock as lock
    from babelclip.storage.locks import take as take
    from babelclip.storage.objects import Entry as Entry
    from babelclip.storage.objects import delete as delete
    from babelclip.storage.objects import download as download
    from babelclip.storage.objects import exists as exists
    from babelclip.storage.objects import list_files as list_files
    from babelclip.storage.objects import open_input as open_input
    from babelclip.storage.objects import read_bytes as read_bytes
    from babelclip.storage.objects import upload as upload
    from babelclip.storage.objects import write_bytes as write_bytes
    from babelclip.storage.publishing import output as output
    from babelclip.storage.publishing import publish as publish
    from babelclip.storage.publishing import pull as pull
    from babelclip.storage.shadows import content as content
    from babelclip.storage.shadows import local as local
    from babelclip.storage.shadows import opened as opened
    from babelclip.storage.shadows import present as present
    from babelclip.storage.shadows import shadow as shadow
    from babelclip.storage.shadows import shadowed as shadowed
    from babelclip.storage.shadows import size_of as size_of

# Where each name lives: the command line asks only what an address is, and loads no more.
_MODULES = {
    "addresses": ("address", "is_url", "joined", "name_of", "url_of", "with_addresses"),
    "filesystem": ("lance_options",),
    "locks": ("Lock", "lock", "take"),
    "objects": "Entry delete download exists list_files open_input read_bytes upload write_bytes".split(),
    "publishing": ("output", "publish", "pull"),
    "shadows": ("content", "local", "opened", "present", "shadow", "shadowed", "size_of"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'babelclip.storage' has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
