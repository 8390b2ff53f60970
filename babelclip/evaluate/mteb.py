"""Any `Clip` as an encoder of mteb, and any retrieval set as its tasks; XTD10, which mteb lacks, among them.

mteb encodes the pictures of a set again for every language. This encoder keeps the vector of each picture by its
content, so the corpus is encoded once: with XM3600 that is 3,600 pictures and not 129,600.

    encoder = MtebEncoder(babelclip.load("demo/student"))
    mteb.evaluate(encoder, retrieval_tasks(open_benchmark("xtd10=DIR")), cache=None)

mteb is an extra (`babelclip[mteb]`) and is imported only for its metadata and for tasks. Written against mteb 2.26.
Legend: N items, D embed_dim.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from babelclip import languages
from babelclip.errors import BabelclipError, require

if TYPE_CHECKING:
    from PIL import Image

    from babelclip.evaluate.benchmarks.sets import RetrievalSet
    from babelclip.models.clip import Clip

FloatArray = npt.NDArray[np.float32]
EXTRA = "mteb"


class MtebEncoder:
    """What mteb asks of a model, answered by a `Clip`.

    Attributes:
        clip: the model; both towers for tasks of both kinds.
        n_encoded: pictures that went through the model; the others were known.
    """

    def __init__(self, clip: Clip, *, name: str = "", revision: str = "", keep_images: bool = True) -> None:
        """Wraps a model.

        Args:
            clip: a `Clip`.
            name: what mteb's results call it, `organisation/model`; by default the model's own name.
            revision: of the weights; by default the model's own.
            keep_images: keep the vector of each picture (4 D bytes) for the next language.
        """
        self.clip = clip
        self.n_encoded = 0
        self._name = name or clip.name or "babelclip/unnamed"
        self._revision = revision or clip.revision or "none"
        self._keep = keep_images
        self._known: dict[bytes, FloatArray] = {}

    @property
    def mteb_model_meta(self) -> Any:
        """Mteb's `ModelMeta`: without one mteb takes a model for one of texts alone."""
        meta = require("mteb.models", EXTRA).ModelMeta
        parameters = self.clip.facts()["parameters"]
        towers = {"text": self.clip.text, "image": self.clip.image}
        return meta.create_empty(
            overwrites={
                # mteb refuses a name without an organisation.
                "name": self._name if "/" in self._name else f"babelclip/{self._name}",
                "revision": self._revision,
                "modalities": [modality for modality, tower in towers.items() if tower is not None],
                "n_parameters": sum(parameters.values()),
                "embed_dim": self.clip.embed_dim,
                "similarity_fn_name": "cosine",
                "framework": ["PyTorch"],
                "open_weights": True,
            }
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any = None,
        hf_split: str = "",
        hf_subset: str = "",
        prompt_type: Any = None,
        **settings: Any,
    ) -> FloatArray:
        """Returns the vectors (N, D) float32 of all batches in order, rows L2-normalised.

        Args:
            inputs: batches with `text` (strings), `image` (PIL pictures), or both. An item with both gets the
                normalised sum of its two vectors, as mteb's own CLIP models do.
            task_metadata: not needed.
            hf_split: not needed.
            hf_subset: the language where it is one; models whose first token names the language read it.
            prompt_type: not needed: queries and documents are encoded alike.
            **settings: mteb's batch size and the like, which this encoder chooses itself.

        Raises:
            BabelclipError: a batch has neither texts nor pictures, or the tower for them was not loaded.
        """
        lang = self._language(hf_subset)
        rows = [self._batch(batch, lang) for batch in inputs]
        return np.concatenate(rows) if rows else np.empty((0, self.clip.embed_dim), dtype=np.float32)

    def similarity(self, embeddings1: npt.ArrayLike, embeddings2: npt.ArrayLike) -> FloatArray:
        """Returns cosines (N, M) of two sets of vectors."""
        return np.asarray(_unit(embeddings1) @ _unit(embeddings2).T)

    def similarity_pairwise(self, embeddings1: npt.ArrayLike, embeddings2: npt.ArrayLike) -> FloatArray:
        """Returns cosines (N,) of vectors in pairs."""
        return np.asarray((_unit(embeddings1) * _unit(embeddings2)).sum(axis=1))

    def forget(self) -> None:
        """Drops the vectors of all pictures."""
        self._known.clear()

    def _batch(self, batch: Mapping[str, Any], lang: str | None) -> FloatArray:
        found = []
        if batch.get("text"):
            found.append(self.clip.encode_text([str(text) for text in batch["text"]], lang=lang))
        if batch.get("image"):
            found.append(self._pictures(batch["image"]))
        if not found:
            raise BabelclipError(
                f"A batch of mteb has {', '.join(batch) or 'nothing'}; a Clip encodes 'text' and 'image'. Choose tasks "
                "of these two modalities."
            )
        return found[0] if len(found) == 1 else _unit(found[0] + found[1])

    def _pictures(self, pictures: Sequence[Image.Image]) -> FloatArray:
        """Returns the vectors of pictures, encoding each content once."""
        keys = [_content(picture) for picture in pictures]
        new = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in self._known}
        made = dict(self._known) if not self._keep else self._known
        if new:
            vectors = self.clip.encode_image(list(new.values()))
            self.n_encoded += len(new)
            made.update(zip(new, vectors, strict=True))
        return np.stack([made[key] for key in keys])

    def _language(self, subset: str) -> str | None:
        """Returns the language of a subset, for models that read it; the others would only warn of it."""
        tokenizer = getattr(self.clip.text, "tokenizer", None)
        if getattr(tokenizer, "language", None) is None:
            return None
        try:
            return languages.normalize(subset)
        except languages.UnknownLanguageError:
            return None


def retrieval_tasks(benchmark: RetrievalSet, *, directions: Sequence[str] = ("t2i", "i2t")) -> list[Any]:
    """Returns mteb tasks of a retrieval set that lies on disk: one a direction, each language a subset.

    Args:
        benchmark: from `open_benchmark`; with "xtd10=DIR" these are the tasks that mteb lacks.
        directions: `t2i`, `i2t` or both.

    Raises:
        MissingExtraError: mteb or datasets is not installed.
        BabelclipError: a direction is unknown.
    """
    unknown = [direction for direction in directions if direction not in ("t2i", "i2t")]
    if unknown or not directions:
        raise BabelclipError(f"directions is {list(directions)}; it must hold 't2i', 'i2t' or both.")
    return [_task(benchmark, direction) for direction in directions]


def _task(benchmark: RetrievalSet, direction: str) -> Any:
    """Returns one task; its class is made here, because mteb may not be installed when this module is imported."""
    base = require("mteb.abstasks.retrieval", EXTRA).AbsTaskRetrieval
    metadata_class = require("mteb.abstasks.task_metadata", EXTRA).TaskMetadata
    name = f"{_title(benchmark.name)}{direction.upper()}Retrieval"
    codes = benchmark.languages
    queries, corpus = ("captions", "pictures") if direction == "t2i" else ("pictures", "captions")
    described = metadata_class(
        name=name,
        description=f"Retrieve the {corpus} that belong to {queries} of {benchmark.name}, read from disk by babelclip.",
        reference=None,
        dataset={"path": f"babelclip/{benchmark.name}", "revision": "local"},
        type="Any2AnyMultilingualRetrieval",
        category=direction,
        eval_splits=[benchmark.split],
        eval_langs={code: [_script_code(code)] for code in codes},
        main_score="hit_rate_at_10",
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        modalities=["text", "image"],
        sample_creation=None,
        bibtex_citation=None,
    )

    def load_data(task: Any, num_proc: int | None = None, **settings: Any) -> None:
        if not task.data_loaded:
            pictures = _picture_rows(benchmark)
            task.dataset = {code: {benchmark.split: _split(benchmark, code, direction, pictures)} for code in codes}
            task.data_loaded = True

    return type(name, (base,), {"metadata": described, "load_data": load_data, "__module__": __name__})()


def _split(benchmark: RetrievalSet, code: str, direction: str, pictures: Any) -> dict[str, Any]:
    """Returns queries, corpus and relevance of one language in the form that mteb reads."""
    datasets = require("datasets", EXTRA)
    captions = benchmark.captions
    numbers = range(len(captions)) if benchmark.text_numbers is None else benchmark.text_numbers.tolist()
    images = captions.table.column("image").to_pylist()
    alike = _alike(benchmark)
    found: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    for number, text, lang, image in zip(numbers, captions.texts, captions.langs, images, strict=True):
        if lang == code:
            found[f"c{number}"] = text
            for other in alike[image]:
                query, answer = (f"c{number}", f"p{other}") if direction == "t2i" else (f"p{other}", f"c{number}")
                relevant.setdefault(query, {})[answer] = 1
    texts = datasets.Dataset.from_dict({"id": list(found), "text": list(found.values())})
    if direction == "t2i":
        own = None if benchmark.corpora is None else benchmark.corpora.get(code)
        corpus = pictures if own is None else pictures.select(own.tolist())
        return {"queries": texts, "corpus": corpus, "relevant_docs": relevant, "top_ranked": None}
    asked = pictures.select([i for i, name in enumerate(pictures["id"]) if name in relevant])
    return {"queries": asked, "corpus": texts, "relevant_docs": relevant, "top_ranked": None}


def _alike(benchmark: RetrievalSet) -> dict[str, list[str]]:
    """Returns picture -> the pictures of its group, which the same captions answer; itself alone without groups."""
    groups = benchmark.groups or benchmark.pictures.ids
    members: dict[str, list[str]] = {}
    for name, group in zip(benchmark.pictures.ids, groups, strict=True):
        members.setdefault(group, []).append(name)
    return {name: members[group] for name, group in zip(benchmark.pictures.ids, groups, strict=True)}


def _picture_rows(benchmark: RetrievalSet) -> Any:
    """Returns the pictures as a data set that opens them when they are asked for."""
    datasets = require("datasets", EXTRA)
    pictures = benchmark.pictures
    files = [_as_file(source, pictures, position) for position, source in enumerate(pictures.sources)]
    table = datasets.Dataset.from_dict({"id": [f"p{one}" for one in pictures.ids], "image": files})
    return table.cast_column("image", datasets.Image())


def _as_file(source: Any, pictures: Any, position: int) -> dict[str, Any]:
    if isinstance(source, (str, Path)) and Path(source).is_file():
        return {"path": str(source), "bytes": None}
    held = io.BytesIO()
    pictures.open(position).convert("RGB").save(held, format="PNG")
    return {"path": None, "bytes": held.getvalue()}


def _title(name: str) -> str:
    from babelclip.evaluate.dataset_names import dataset_key, dataset_title

    return "".join(part for part in dataset_title(dataset_key(name)) if part.isalnum())


def _script_code(code: str) -> str:
    """Returns a language as mteb writes it, ISO 639-3 and script: `deu-Latn`."""
    flores = languages.flores(code)
    return flores.replace("_", "-") if flores else f"{code.split('-')[0]}-{languages.script(code)}"


def _content(picture: Image.Image) -> bytes:
    digest = hashlib.blake2b(f"{picture.mode}{picture.size}".encode(), digest_size=16)
    digest.update(picture.tobytes())
    return digest.digest()


def _unit(vectors: npt.ArrayLike) -> FloatArray:
    rows = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, np.float32(1)))
