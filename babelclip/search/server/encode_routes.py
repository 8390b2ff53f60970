"""Routes of `/v1` that use the model without a collection: vectors, and labels for a picture. Entry point: `router`."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends

from babelclip.search.server.encoders import QueryEncoder
from babelclip.search.server.problems import Problem
from babelclip.search.server.schemas import EmbedIn, ZeroShotIn
from babelclip.search.server.service import Service
from babelclip.search.server.terms import checked_language, checked_text, open_upload, picture_bytes


def router(service: Service) -> APIRouter:
    """Returns the routes; each wants a key with `read` where the service has keys."""
    routes = APIRouter(prefix="/v1", dependencies=[Depends(service.allow("read"))])

    @routes.post("/embed")
    async def embed(asked: EmbedIn) -> dict[str, Any]:
        """Vectors of texts or pictures, L2-normalised: lists of numbers, or base64 of float32 little-endian rows."""
        encoder = _model(service, asked.model)
        items = asked.texts if asked.texts is not None else asked.images
        if items is None or (asked.texts is not None and asked.images is not None):
            raise Problem(422, "bad_request", "Exactly one of texts and images is needed. Give one.")
        _check_number(service, len(items))
        if asked.texts is not None:
            lang = checked_language(asked.lang)
            work = [encoder.text(checked_text(service, text), lang) for text in asked.texts]
            vectors = list(await asyncio.gather(*work))
        else:
            vectors = [(await encoder.picture(picture_bytes(service, image)))[0] for image in items]
        rows = np.stack(vectors) if vectors else np.empty((0, encoder.clip.embed_dim), np.float32)
        facts = {"model": encoder.name, "space": encoder.clip.space, "dim": int(rows.shape[1]), "n": len(rows)}
        if asked.format == "base64":
            return {**facts, "vectors": base64.b64encode(rows.astype("<f4").tobytes()).decode()}
        return {**facts, "vectors": rows.tolist()}

    @routes.post("/zero-shot")
    async def zero_shot(asked: ZeroShotIn) -> dict[str, Any]:
        """How well each label, in whatever language, fits a picture: cosine and probability."""
        encoder = _model(service, asked.model)
        if (asked.image is None) == (asked.upload is None):
            raise Problem(422, "bad_request", "Exactly one of image and upload is needed. Give one.")
        if "{}" not in asked.template:
            raise Problem(422, "bad_request", "The template has no {} for the label. Put it where the label belongs.")
        _check_number(service, len(asked.labels))
        if asked.image is not None:
            vector, _width, _height = await encoder.picture(picture_bytes(service, asked.image))
        else:
            vector = open_upload(service, encoder.clip.space, asked.upload or "")
        texts = await asyncio.gather(
            *(
                encoder.text(
                    checked_text(service, asked.template.replace("{}", label.text)), checked_language(label.lang)
                )
                for label in asked.labels
            )
        )
        rows = np.stack(texts)
        cosines = rows @ vector
        scaled = encoder.clip.logit_scale is not None
        shares = encoder.clip.probabilities(rows, vector[None])[:, 0] if scaled else [None] * len(rows)
        labels = [
            {
                "text": label.text,
                "cosine": float(cosine),
                "probability": float(share) if share is not None else None,
            }
            for label, cosine, share in zip(asked.labels, cosines, shares, strict=True)
        ]
        return {"model": encoder.name, "labels": sorted(labels, key=lambda label: -label["cosine"])}

    return routes


def _model(service: Service, wanted: str | None) -> QueryEncoder:
    if wanted is not None and wanted not in service.encoders:
        raise Problem(400, "bad_request", f"There is no such model. There are: {', '.join(service.encoders)}.")
    encoder = service.encoders[wanted] if wanted else next(iter(service.encoders.values()), None)
    if encoder is None:
        raise Problem(400, "no_text_encoder", "The service runs without a model. Start it with --model.")
    return encoder


def _check_number(service: Service, given: int) -> None:
    most = service.settings.limits.batch
    if given > most:
        raise Problem(422, "bad_request", f"There are {given} entries; at most {most} are taken at once. Send fewer.")
