"""`embed_on`: captions or pictures to an `EmbeddingStore` by a launcher, to the byte as without one.

The job itself: `embed_job.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from babelclip import storage
from babelclip.cluster.embed_captions import CaptionsKind
from babelclip.cluster.embed_job import Embedded, EmbedJob
from babelclip.cluster.embed_pictures import PicturesKind
from babelclip.cluster.job import Means, equipped, run_job
from babelclip.data.embed_blocks import PictureSettings
from babelclip.data.embed_shard import TextSettings


def embed_on(
    launcher: str,
    source: Path | str,
    out: Path | str,
    *,
    model: str,
    means: Means,
    pictures: bool = False,
    root: Path | str | None = None,
    lang: str | None = None,
    only: str | Iterable[str] | None = None,
    strict: bool = False,
    sources_only: bool = False,
    target: str = "projected",
    normalize: bool = False,
    dtype: str = "float16",
    batch: int | None = None,
    shard_rows: int | None = None,
) -> Embedded | None:
    """Fills the store at `out`; returns what was done, or None where another rank commits.

    Args:
        launcher: "local", "ray" or "rank".
        source: see `embed_file`, or with `pictures` `embed_pictures`; so are all that follow `means`.
        out: a new folder, or a store of the same model; every process must see it at the same path.
        model: folder or name, for each worker to load.
        means: what the launcher may use; the kind of its first device, or of Ray's workers, is part of the job.
        pictures: encode pictures, not texts.
        root: folder that names of pictures begin in.
        lang: language of rows that name none.
        only: keep these languages.
        strict: stop at the first row or picture that cannot be used.
        sources_only: leave out rows that name a `source_id`.
        target: "projected" or "pooled".
        normalize: whether rows are scaled to length 1.
        dtype: of the store.
        batch: most tokens, or pictures, of a batch; None: by the device.
        shard_rows: captions or pictures of a shard: another number gives other files.

    Raises:
        BabelclipError: as `run_job`, `embed_file` and `embed_pictures`.
    """
    # Workers run elsewhere, in a folder of their own, and with a cache of their own for what lies at an address.
    source, model = _everywhere(source), _everywhere(model)
    languages = (only,) if isinstance(only, str) else tuple(only) if only is not None else None
    place = storage.url_of(out) or str(Path(out).absolute())
    with equipped(launcher, means) as means:
        device = (means.devices[0] if means.devices else "cpu").partition(":")[0]
        kind: CaptionsKind | PicturesKind
        if pictures:
            sizes = PictureSettings(target, normalize, **({"batch_size": batch} if batch else {}))
            root = None if root is None else _everywhere(root)
            kind = PicturesKind(source, model, root, lang, languages, strict, sizes, dtype, shard_rows, device)
        else:
            settings = TextSettings(target, normalize, batch)
            kind = CaptionsKind(
                source, model, lang, languages, strict, sources_only, settings, dtype, shard_rows, device
            )
        job = EmbedJob(place, kind, keep=launcher == "rank", progress=means.progress)
        return run_job(job, launcher=launcher, means=means)


def _everywhere(path: Path | str) -> str:
    """Returns a path, an address or a name so that it means the same in every process."""
    given = storage.address(path)
    return given if storage.is_url(given) or not Path(given).exists() else str(Path(given).absolute())


def means_of(launcher: str, devices: Iterable[str], workers: int, ray_address: str) -> Means:
    """Returns the means that options name; without devices all GPUs of this machine, or its processor.

    A rank that torchrun or srun started beside others takes the GPU of its number on the machine. What devices the
    workers of Ray have, Ray knows (`cluster.job.equipped`).
    """
    import os

    import torch

    given = tuple(devices)
    if launcher == "ray":
        # 0 workers are as many as the cluster has room for.
        return Means(workers=workers, devices=given, ray_address=ray_address)
    gpus = torch.cuda.device_count()
    if not given and gpus:
        given = tuple(f"cuda:{number}" for number in range(gpus))
        local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", ""))
        if launcher == "rank" and local.isdecimal():
            given = (given[int(local) % gpus],)
    return Means(workers=max(1, workers), devices=given or ("cpu",), ray_address=ray_address)
