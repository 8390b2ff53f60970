"""Refusals as JSON Problem Details (RFC 9457): status, title, a sentence for people, a code for programs.

No answer holds a stack trace, a path or an internal address. Entry points: `Problem`, `install`.
"""

from __future__ import annotations

import http
import logging
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from babelclip.errors import BabelclipError

log = logging.getLogger("babelclip.serve")
# Characters of a sentence: it may repeat what was sent.
_LONGEST = 600


class Problem(Exception):
    """A refusal that ends a request.

    Attributes:
        status: of HTTP.
        code: for programs.
        detail: what was given, what is allowed, what to do.
        headers: further headers, such as Retry-After.
    """

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.headers = status, code, detail, dict(headers or {})


def busy(detail: str, seconds: int = 1) -> Problem:
    """Returns the refusal of a service at its limit: 503 with Retry-After."""
    return Problem(503, "busy", detail, {"Retry-After": str(seconds)})


def body_of(status: int, code: str, detail: str) -> dict[str, Any]:
    """Returns the content of a problem."""
    # What cannot be UTF-8 (half a character) is shown by its number.
    detail = detail.encode("utf-8", "backslashreplace").decode("utf-8")
    return {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail if len(detail) <= _LONGEST else detail[:_LONGEST] + "…",
        "code": code,
    }


def response_of(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Returns the answer that states a problem."""
    return JSONResponse(
        body_of(status, code, detail), status, headers=dict(headers or {}), media_type="application/problem+json"
    )


def install(app: FastAPI, hide: Callable[[str], str]) -> None:
    """Makes every failure of a route such an answer.

    Args:
        app: whose routes.
        hide: takes what is the operator's own (paths, addresses) out of a sentence.
    """

    def refused(_request: Request, error: Any) -> Response:
        return response_of(error.status, error.code, error.detail, error.headers)

    def invalid(_request: Request, error: Any) -> Response:
        faults = []
        for fault in error.errors()[:5]:
            place = ".".join(str(part) for part in fault["loc"] if part != "body")
            faults.append(f"{place}: {fault['msg']}" if place else str(fault["msg"]))
        return response_of(422, "bad_request", f"The request does not fit: {'; '.join(faults)}. See /openapi.json.")

    def wrong(_request: Request, error: Exception) -> Response:
        return response_of(400, "bad_request", hide(str(error)))

    def plain(_request: Request, error: Any) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
        return response_of(error.status_code, code, f"{error.detail}. See /openapi.json.", error.headers)

    app.add_exception_handler(Problem, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    # Terms that are made of a line of text, or of clip-retrieval's payload, meet the same bounds.
    app.add_exception_handler(ValidationError, invalid)
    app.add_exception_handler(BabelclipError, wrong)
    app.add_exception_handler(HTTPException, plain)
