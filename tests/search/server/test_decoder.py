"""Strangers' pictures: bombs, fragments, other formats, and decoders that hang or die (S5)."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
import struct
import zlib

import pytest
from PIL import Image, PngImagePlugin

from babelclip.search.server.decoder import Decoder, Refused, _guarded, encoded_jpeg
from babelclip.search.server.problems import Problem
from tests.search.server.conftest import problem, search

PIXELS = 1_000_000


def encoded(picture: Image.Image, kind: str = "PNG", **how) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return file.getvalue()


def png_of(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that says it is so large, with a few bytes of content."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


def gif_of(width: int, height: int, frame: tuple[int, int]) -> bytes:
    """A GIF whose frame is larger than its screen."""
    return (
        b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
        + b"\x2c" + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x4c\x01\x00\x3b"
    )  # fmt: skip


SMALL = Image.new("RGB", (40, 30), "red")


def test_common_pictures_are_read_upright_and_come_out_without_metadata():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "where I live"
    for kind, mode in (
        ("PNG", "RGB"),
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        ("WEBP", "RGBA"),
        ("GIF", "P"),
        ("BMP", "1"),
        ("TIFF", "I;16"),
    ):
        jpeg = encoded_jpeg(encoded(Image.new(mode, (40, 30)), kind), PIXELS, 20)
        assert Image.open(io.BytesIO(jpeg)).size == (20, 15)
    turned = encoded_jpeg(encoded(SMALL, "JPEG", exif=exif), PIXELS, 2048)
    assert Image.open(io.BytesIO(turned)).size == (30, 40)
    assert b"where I live" not in turned


def test_of_an_animation_only_the_first_frame_is_read():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")] * 300
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    red, green, blue = Image.open(io.BytesIO(encoded_jpeg(gif, PIXELS, 8))).convert("RGB").getpixel((4, 4))
    assert red > 200 > 60 > max(green, blue)


WHOLE = encoded(Image.radial_gradient("L").convert("RGB"), "JPEG")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", b"<html>", b"%PDF-1.7",
        b"%!PS-Adobe-3.0",
        b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x00\x00\x00WEBPVP8 ", b"II*\x00\xff\xff\xff\xff",
        b"\xff\xd8\xff\xe0" + b"\xff" * 99,
        png_of(100_000, 100_000), png_of(2**31 - 1, 2**31 - 1), png_of(1001, 1000), gif_of(1, 1, (60_000, 60_000)),
        gif_of(60_000, 60_000, (1, 1)), WHOLE[: len(WHOLE) // 2], WHOLE[:400], encoded(SMALL)[:60],
        encoded(SMALL, "ICO"), encoded(SMALL, "PPM"), encoded(SMALL, "EPS"), encoded(SMALL, "PDF"),
        encoded(SMALL, "TGA"),
        png_of(10, 10, (b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))),
        png_of(10, 10, (b"iCCP", b"a\0\0" + zlib.compress(bytes(80_000_000)))), os.urandom(5000),
    ],
)  # fmt: skip
def test_bombs_fragments_and_other_files_are_refused(content):
    with pytest.raises(Refused) as refused:
        _guarded(encoded_jpeg, content, PIXELS, 100)
    assert "Send" in str(refused.value)


def test_a_picture_with_a_broken_or_huge_exif_is_read_or_refused_and_no_more():
    for exif in (
        b"Exif\0\0" + b"II*\x00\x08\x00\x00\x00\xff\xff" + b"\x12\x01" * 20_000,
        b"Exif\0\0MM",
        b"Exif\0\0" + os.urandom(60_000),
    ):
        try:
            assert _guarded(encoded_jpeg, encoded(SMALL, "JPEG", exif=exif), PIXELS, 100)
        except Refused:
            continue


def test_sixteen_bits_of_grey_are_shown_by_their_upper_byte():
    grey = Image.new("I;16", (8, 8), 100 << 8)
    shown = Image.open(io.BytesIO(encoded_jpeg(encoded(grey), PIXELS, 8))).convert("L")
    assert abs(shown.getpixel((4, 4)) - 100) <= 2


def test_text_beside_a_picture_does_not_come_through():
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", "where I live", zip=True)
    assert b"where I live" not in encoded_jpeg(encoded(SMALL, pnginfo=notes), PIXELS, 100)


def _hang(_content: bytes, _pixels: int, _longest: int) -> bytes:
    import time

    time.sleep(60)
    return b""


def _eat(_content: bytes, _pixels: int, _longest: int) -> bytes:
    return bytes(1 << 32)


def test_a_decoder_that_hangs_eats_memory_or_dies_costs_itself_only():
    async def ask() -> None:
        decoder = Decoder(workers=1, pixels=PIXELS, seconds=2.0, memory=1 << 30)
        try:
            with pytest.raises(Problem) as eaten:
                await decoder._run(_eat, b"", PIXELS, 1)
            assert eaten.value.status == 413
            # The second waits for its turn behind one that hangs, and its own time begins then.
            hanging = asyncio.create_task(decoder._run(_hang, b"", PIXELS, 1))
            await asyncio.sleep(0)
            assert await decoder.jpeg(encoded(SMALL), 10)
            with pytest.raises(Problem) as hung:
                await hanging
            assert hung.value.status == 413
            os.kill(next(iter(decoder._pool._processes)), signal.SIGKILL)
            with pytest.raises(Problem) as died:
                await decoder.jpeg(encoded(SMALL), 10)
            assert died.value.status == 503
            assert died.value.headers["Retry-After"]
            assert await decoder.jpeg(encoded(SMALL), 10)
        finally:
            decoder.close()

    asyncio.run(ask())


def test_a_full_queue_of_pictures_refuses():
    async def ask() -> None:
        decoder = Decoder(workers=1, pixels=PIXELS, seconds=5.0, memory=1 << 30, queue=2)
        try:
            waiting = [asyncio.create_task(decoder.jpeg(encoded(SMALL), 10)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Problem) as full:
                await decoder.jpeg(encoded(SMALL), 10)
            assert full.value.status == 503
            waiting[1].cancel()  # the one who asked has gone; those behind it still get their turn
            assert await waiting[0]
            await asyncio.sleep(0.2)
            assert await decoder.jpeg(encoded(SMALL), 10)
        finally:
            decoder.close()

    asyncio.run(ask())


def test_a_picture_finds_its_like_whichever_way_it_comes(client, collection):
    content = (collection.parent / "shapes" / "red-circle-48.png").read_bytes()
    sent = client.post("/v1/uploads", content=content, headers={"Content-Type": "image/png"}).json()
    assert (sent["width"], sent["height"]) == (48, 48)
    for term in ({"upload": sent["upload"]}, {"image": base64.b64encode(content).decode()},
                 {"image": "data:image/png;base64," + base64.b64encode(content).decode()}):  # fmt: skip
        assert search(client, terms=[term], k=1)["hits"][0]["caption"].startswith("red circle, 48")
    for forged in ("u_", "u_x.y", sent["upload"][:-2], sent["upload"][5:], "u_é.é", "x" * 190_000):
        problem(client.post("/v1/collections/shapes/search", json={"terms": [{"upload": forged}]}), 410, "gone")


def test_refused_pictures_are_problems(serve):
    from babelclip.search.server.settings import Limits

    client = serve(limits=Limits(per_minute=0, picture=3000, pixels=1000))
    for content, status in ((b"", 400), (b"no picture", 415), (encoded(SMALL), 415), (bytes(3001), 413)):
        problem(client.post("/v1/uploads", content=content), status)
    asked = "/v1/collections/shapes/search"
    for image, status in (("", 415), ("not base64!", 400), ("A" * 5000, 413), ("data:text/html,<b>", 400)):
        problem(client.post(asked, json={"terms": [{"image": image}]}), status)
