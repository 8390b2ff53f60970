"""Terms of a request, turned into vectors of one model.

Entry points: `all_terms`, `vectors_of`, `seal_upload`, `picture_bytes`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Mapping, Sequence

import numpy as np

from babelclip import languages
from babelclip.search.query import Term, parse_query
from babelclip.search.server.encoders import QueryEncoder
from babelclip.search.server.problems import Problem
from babelclip.search.server.schemas import SearchIn, TermIn
from babelclip.search.server.served import Served
from babelclip.search.server.service import Service

# An upload is asked for as long as a person looks at the page.
_UPLOAD_SECONDS = 24 * 3600


def all_terms(service: Service, asked: SearchIn) -> list[TermIn]:
    """Returns the terms of a request: those of its line of text, then those that are given apart.

    Raises:
        Problem: the line is too long.
        BabelclipError: it has too many terms, or a weight that makes no sense.
    """
    line = checked_text(service, asked.query or "")
    parsed = [TermIn(text=term.text, weight=term.weight, lang=asked.lang) for term in parse_query(line)]
    return [*parsed, *asked.terms]


async def vectors_of(
    service: Service, served: Served, encoder: QueryEncoder | None, terms: Sequence[TermIn]
) -> tuple[list[Term], np.ndarray, float]:
    """Returns terms as `query_vector` takes them, vectors (N, D) of the texts among them, and seconds of the encoder.

    Texts keep their order. The seconds are those for which the text encoder ran while these waited for it.

    Raises:
        Problem: too many or too long terms, no encoder, or a picture or vector that is refused.
    """
    limits = service.settings.limits
    if len(terms) > limits.terms:
        raise Problem(
            422, "bad_request", f"There are {len(terms)} terms; at most {limits.terms} are allowed. Give fewer."
        )
    waited = [0.0]
    if len(terms) == 1:  # by far the most are: no task of its own
        vectors = [await _vector_of(service, served, encoder, terms[0], waited)]
    else:
        vectors = await asyncio.gather(*(_vector_of(service, served, encoder, term, waited) for term in terms))
    made: list[Term] = []
    texts: list[np.ndarray] = []
    for term, vector in zip(terms, vectors, strict=True):
        if term.text is not None and vector is not None:
            made.append(Term(text=term.text, weight=term.weight))
            texts.append(vector)
        elif term.id is not None:
            made.append(Term(id=term.id, weight=term.weight))
        else:
            made.append(Term(vector=vector, weight=term.weight))
    # All wait at the same time, so the longest is what the request waited.
    return made, np.stack(texts) if texts else np.empty((0, served.fingerprint.dim), np.float32), max(waited)


async def _vector_of(
    service: Service, served: Served, encoder: QueryEncoder | None, term: TermIn, waited: list[float]
) -> np.ndarray | None:
    """Returns the vector (D,) of a term; None of an item, whose vector the collection has.

    The seconds for which the text encoder ran meanwhile are added to `waited`.
    """
    if term.id is not None:
        return None
    if term.vector is not None:
        return checked_vector(term.vector, served.fingerprint.dim)
    if term.upload is not None:
        return open_upload(service, served.fingerprint.space, term.upload)
    if encoder is None:
        raise Problem(
            400, "no_text_encoder", "The service has no model of this collection's space. Ask with an item or a vector."
        )
    if term.text is not None:
        text = checked_text(service, term.text)
        service.log_query(text)
        vector, seconds = await encoder.timed_text(text, checked_language(term.lang))
        waited.append(seconds)
        return vector
    vector, _width, _height = await encoder.picture(await _bytes_of(service, term))
    return vector


def checked_vector(values: Sequence[float], dim: int) -> np.ndarray:
    """Returns a vector (D,) float32 of length 1.

    Raises:
        Problem: it is not finite, of another dimension, or all zero.
    """
    try:
        vector = np.asarray(values, dtype=np.float64)
    except OverflowError:  # whole numbers in JSON have no bound
        vector = np.full(len(values), np.inf)
    if vector.shape != (dim,) or not np.isfinite(vector).all():
        raise Problem(400, "bad_request", f"The vector has shape {vector.shape}; {dim} finite numbers are needed.")
    with np.errstate(over="ignore"):
        norm = float(np.linalg.norm(vector))
    if not 1e-12 < norm < 1e12:
        raise Problem(400, "bad_request", "The vector's length is zero or beyond reason. Send it normalised.")
    return np.asarray(vector / norm, dtype=np.float32)


def checked_text(service: Service, text: str) -> str:
    """Returns a query text.

    Raises:
        Problem: it is too long, or not text.
    """
    most = service.settings.limits.text
    if len(text) > most:
        raise Problem(413, "too_large", f"The text has {len(text)} characters; at most {most} are read. Shorten it.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Problem(
            400, "bad_request", "The text holds half a character (a surrogate). Send valid Unicode."
        ) from None
    return text


def checked_language(code: str | None) -> str:
    """Returns a BCP-47 code in its usual form, "" for none.

    Raises:
        BabelclipError: it is not a language.
    """
    return languages.normalize(code) if code else ""


def picture_bytes(service: Service, encoded: str) -> bytes:
    """Returns the bytes of a base64 picture; a data URL's prefix is taken off.

    Raises:
        Problem: it is not base64, or too large.
    """
    most = service.settings.limits.picture
    if encoded.startswith("data:"):
        encoded = encoded.partition(",")[2]
    if len(encoded) > most * 4 // 3 + 16:
        raise Problem(413, "too_large", f"A picture may have {most:,} bytes. Send a smaller one.")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Problem(400, "bad_request", "The picture is not base64. Send its file, encoded so.") from None


async def _bytes_of(service: Service, term: TermIn) -> bytes:
    if term.image is not None:
        return picture_bytes(service, term.image)
    from babelclip.search.server.fetch import fetch_picture

    url, settings = term.url or "", service.settings

    def fetch() -> bytes:
        opt_outs = not settings.ignore_opt_outs
        return fetch_picture(
            url, settings.fetch, settings.limits.picture, opt_outs=opt_outs, proxy=settings.fetch_proxy
        )

    return await service.in_thread("fetch", fetch, service.fetching)


def seal_upload(service: Service, vectors: Mapping[str, np.ndarray]) -> str:
    """Returns a picture's vectors as a sealed text: the service keeps nothing, and any of its processes can open it.

    Args:
        service: whose secret seals.
        vectors: space -> (D,) float32.
    """
    halves = {space: base64.b64encode(vector.astype("<f2").tobytes()).decode() for space, vector in vectors.items()}
    return "u_" + service.signer.seal("upload", {"v": halves, "e": int(time.time()) + _UPLOAD_SECONDS})


def open_upload(service: Service, space: str, sealed: str) -> np.ndarray:
    """Returns the vector (D,) of an upload.

    Raises:
        Problem: it is not ours, of another space, or too old.
    """
    content = service.signer.unseal("upload", sealed.removeprefix("u_"))
    if content is None or content["e"] < time.time():
        raise Problem(410, "gone", "The picture that was sent is not kept any more. Send it again.")
    if space not in content["v"]:
        raise Problem(400, "other_space", f"The picture was not encoded for {space}. Send it again.")
    vector = np.frombuffer(base64.b64decode(content["v"][space]), "<f2").astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector))
