"""Thumbnails as they leave the service: rows may come from anybody, so what is no small plain JPEG is not given out.

Entry point: `plain_jpeg`.
"""

from __future__ import annotations

# A thumbnail's longest side is 320; a collection of others may have made larger ones.
_MOST_PIXELS = 4_000_000
_MOST_BYTES = 2_000_000
_START, _END, _SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
# What shows the picture: tables, frame, scan, restart interval, and Adobe's note of the colours. All else is metadata.
_KEPT = {0xDB, 0xC4, 0xDD, 0xE0, 0xEE, *(0xC0 + kind for kind in range(16) if kind not in (4, 8, 12)), 0xCC}
_FRAMES = {0xC0 + kind for kind in range(16) if kind not in (4, 8, 12)}


def plain_jpeg(content: bytes | None) -> bytes | None:
    """Returns the JPEG without metadata and without what follows its end; None where it is none, or a large one."""
    if not content or len(content) > _MOST_BYTES or not content.startswith(_START):
        return None
    kept, place, framed = [_START], 2, False
    while place + 4 <= len(content) and content[place] == 0xFF:
        kind, size = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        end = place + 2 + size
        if size < 2 or end > len(content):
            return None
        if kind in _FRAMES:
            height, width = (int.from_bytes(content[place + at : place + at + 2], "big") for at in (5, 7))
            if framed or not 0 < width * height <= _MOST_PIXELS:
                return None
            framed = True
        if kind == _SCAN:
            # In what is coded 0xFF is followed by 0 or a restart, so the first end mark is the end.
            last = content.find(_END, end)
            return b"".join([*kept, content[place:last], _END]) if framed and last > 0 else None
        if kind in _KEPT:
            kept.append(content[place:end])
        place = end
    return None
