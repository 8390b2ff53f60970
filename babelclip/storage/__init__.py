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

from babelclip.storage.address import address, is_url, joined, name_of, url_of, with_addresses
from babelclip.storage.locks import Lock, lock
from babelclip.storage.objects import (
    Entry,
    delete,
    download,
    exists,
    list_files,
    open_input,
    read_bytes,
    upload,
    write_bytes,
)
from babelclip.storage.publishing import output, publish, pull
from babelclip.storage.shadows import content, local, present, shadow

__all__ = [
    "Entry",
    "Lock",
    "address",
    "content",
    "delete",
    "download",
    "exists",
    "is_url",
    "joined",
    "list_files",
    "local",
    "lock",
    "name_of",
    "open_input",
    "output",
    "present",
    "publish",
    "pull",
    "read_bytes",
    "shadow",
    "upload",
    "url_of",
    "with_addresses",
    "write_bytes",
]
