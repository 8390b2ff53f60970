"""What requests of `/v1` may hold: types, bounds and nothing else; an unknown key is an error.

Bounds that the operator sets (`Limits`) are checked by the routes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TermIn(_Strict):
    """One part of a query: one of text, image, upload, id, vector and url, with a weight (negative: without)."""

    text: str | None = Field(None, min_length=1)
    image: str | None = Field(None, description="a picture file, base64")
    upload: str | None = Field(None, max_length=200_000, description="what POST /v1/uploads gave")
    id: str | None = Field(None, max_length=1024, description="an item of the collection")
    vector: list[float] | None = Field(None, max_length=8192)
    url: str | None = Field(None, max_length=4096, description="only where the operator allows fetching")
    weight: float = Field(1.0, ge=-10, le=10)
    lang: str | None = Field(None, max_length=35, description="BCP-47")

    @model_validator(mode="after")
    def _one(self) -> TermIn:
        given = [name for name in ("text", "image", "upload", "id", "vector", "url") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a term holds {', '.join(given) or 'nothing'}; give one of text, image, upload, id, vector, url"
            )
        return self


class SearchIn(_Strict):
    """A search, or with no terms a look through the collection."""

    query: str | None = Field(None, description='terms in a line, for example beach - people + "at night"')
    lang: str | None = Field(None, max_length=35, description="BCP-47, of query")
    terms: list[TermIn] = []
    k: int = Field(40, ge=1)
    cursor: str | None = Field(None, max_length=2048)
    where: dict[str, Any] | None = Field(
        None, description='a filter, for example {"op": "eq", "column": "lang", "value": "sv"}'
    )
    min_score: float | None = Field(None, ge=-1, le=1, description="cosine")
    cut: float | None = Field(None, ge=0, lt=1, description="share of what random queries reach that a hit must pass")
    group_by: str | None = Field(None, max_length=64)
    dedup: bool = Field(True, description="fold near duplicates")
    safety: bool = Field(False, description="leave out what the collection's safety column marks")
    columns: list[str] = Field([], max_length=64)
    encoder: str | None = Field(None, max_length=256)


class EmbedIn(_Strict):
    """Texts or pictures (base64) to encode."""

    texts: list[str] | None = None
    images: list[str] | None = None
    model: str | None = Field(None, max_length=256)
    lang: str | None = Field(None, max_length=35)
    normalize: Literal[True] = True
    format: Literal["json", "base64"] = "json"


class LabelIn(_Strict):
    """A label of a zero-shot question."""

    text: str = Field(min_length=1)
    lang: str | None = Field(None, max_length=35)


class ZeroShotIn(_Strict):
    """A picture and labels in any language."""

    image: str | None = None
    upload: str | None = None
    labels: list[LabelIn] = Field(min_length=1)
    template: str = Field("{}", max_length=500)
    model: str | None = Field(None, max_length=256)


class AddIn(_Strict):
    """A picture to add to a collection (admin)."""

    image: str
    id: str | None = Field(None, min_length=1, max_length=1024)
    caption: str | None = Field(None, max_length=10_000)
    lang: str | None = Field(None, max_length=35)
    columns: dict[str, str | int | float | bool | None] = {}


class DeleteIn(_Strict):
    """Rows to delete (admin): by id, by filter, or those that both name."""

    ids: list[str] | None = Field(None, max_length=10_000)
    where: dict[str, Any] | None = None
    forget: bool = Field(True, description="also remove them from the disk: compaction, then clean-up of versions")
