"""Refusals as JSON Problem Details (RFC 9457): status, title, a sentence for people, a code for programs.

No answer holds a stack trace, a path or an internal address. Entry points: `Problem`, `install`.
"""

from __future__ import annotations

import http
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from babelclip.errors import BabelclipError

log = logging.getLogger("babelclip.serve")


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
    return {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }


def response_of(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Returns the answer that states a problem."""
    return JSONResponse(
        body_of(status, code, detail), status, headers=dict(headers or {}), media_type="application/problem+json"
    )


def install(app: FastAPI) -> None:
    """Makes every failure of a route such an answer."""

    def refused(_request: Request, error: Any) -> Response:
        return response_of(error.status, error.code, error.detail, error.headers)

    def invalid(_request: Request, error: Any) -> Response:
        faults = []
        for fault in error.errors()[:5]:
            place = ".".join(str(part) for part in fault["loc"] if part != "body")
            faults.append(f"{place}: {fault['msg']}" if place else str(fault["msg"]))
        return response_of(422, "bad_request", f"The request does not fit: {'; '.join(faults)}. See /openapi.json.")

    def wrong(_request: Request, error: Exception) -> Response:
        return response_of(400, "bad_request", str(error))

    def plain(_request: Request, error: Any) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
        return response_of(error.status_code, code, f"{error.detail}. See /openapi.json.", error.headers)

    app.add_exception_handler(Problem, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(BabelclipError, wrong)
    app.add_exception_handler(HTTPException, plain)
