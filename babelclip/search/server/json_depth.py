"""Refuses JSON that no honest client sends, before anything else reads it. Entry point: `DepthGate`.

That is JSON nested deeper than anybody needs, which parsers recurse into, and text with half a character (a lone
surrogate, which JSON can write and UTF-8 cannot), which would fail at whatever writes it next.
"""

from __future__ import annotations

import json
import re
from collections.abc import MutableMapping
from typing import Any

from babelclip.search.server.limits import ASGI, Receive, Scope, Send
from babelclip.search.server.problems import response_of

# A string, also one that does not end: nothing after it is JSON.
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class DepthGate:
    """Middleware that reads the body of a request that is to be JSON, looks at it, and hands it on."""

    def __init__(self, app: ASGI, depth: int) -> None:
        self._app, self._depth = app, depth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        # Uploads are pictures; everything else that has a body is taken for JSON, as clip-retrieval's routes do.
        if (
            scope["type"] != "http"
            or scope["method"] not in ("POST", "PUT", "PATCH", "DELETE")
            or scope["path"] == "/v1/uploads"
        ):
            await self._app(scope, receive, send)
            return
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if nesting(bytes(body)) > self._depth:
            detail = f"The JSON is nested deeper than {self._depth}. Send a flatter request."
            await response_of(400, "bad_request", detail)(scope, receive, send)
            return
        if half_characters(bytes(body)):
            detail = "The JSON holds half a character (a lone surrogate). Send valid Unicode."
            await response_of(400, "bad_request", detail)(scope, receive, send)
            return
        given = False

        async def again() -> MutableMapping[str, Any]:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, again, send)


def nesting(body: bytes) -> int:
    """Returns how deep brackets stand within brackets, those in strings left out.

    Counted on the bytes: in UTF-8 no byte of a longer character is a quote, a backslash or a bracket.
    """
    deepest = depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", body)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def half_characters(body: bytes) -> bool:
    """Returns whether a text of the JSON holds a lone surrogate; what is no JSON holds none."""
    if not _SURROGATE.search(body):
        return False
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False
