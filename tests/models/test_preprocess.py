from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageOps

from babelclip.errors import BabelclipError
from babelclip.models.checkpoints.files.preprocess_files import preprocess_from_hf, preprocess_from_open_clip
from babelclip.models.preprocess import PictureError, Preprocess, open_picture
from tests.conftest import draw_shape
from tests.golden.many_pictures import many_pictures

# Pillow's advice on palettes with transparency; what the origins do with them is what is compared here.
pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency")
GOLDEN = Path(__file__).parents[1] / "golden"
PICTURES = many_pictures()


def passes_swap(pillow: str) -> bool:
    """Whether this Pillow resizes tall pictures vertically first, which rounds differently: it does from 13.0 on."""
    return int(pillow.split(".")[0]) >= 13


def cases(name: str) -> list:
    content = json.loads((GOLDEN / name).read_text())
    assert len(content["cases"]) > 5
    assert passes_swap(content["versions"]["pillow"])
    return [pytest.param(case, id=f"{case['origin']}-{n}") for n, case in enumerate(content["cases"])]


def openai_preprocess(resolution: int) -> Preprocess:
    """Of OpenAI's CLIP: what open_clip does where a config says nothing."""
    return preprocess_from_open_clip({"size": resolution})


def reader(case: dict) -> Preprocess:
    read = {"open_clip": preprocess_from_open_clip, "openai": openai_preprocess, "transformers": preprocess_from_hf}
    return read[case["origin"]](case["config"])


def differing(preprocess: Preprocess, hashes: dict[str, str | None]) -> list[str]:
    """Names of the pictures whose pixels are not the origin's, bit for bit; where the origin fails we must not."""
    assert len(hashes) == len(PICTURES)
    wrong = []
    for name, picture in PICTURES:
        if picture.height > picture.width and not passes_swap(PIL.__version__):
            continue
        pixels = preprocess(picture)
        assert pixels.shape == (3, preprocess.crop, preprocess.crop)
        assert pixels.dtype == np.float32
        assert pixels.flags.c_contiguous
        expected = hashes[name]
        if expected is not None and hashlib.sha256(pixels.astype("<f4").tobytes()).hexdigest()[:20] != expected:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("case", cases("preprocess.json"))
def test_pixels_equal_the_origins_bit_for_bit(case):
    assert differing(reader(case), case["hashes"]) == []


@pytest.mark.parametrize("case", cases("preprocess_old.json"))
def test_pixels_equal_those_of_transformers_4_where_transparency_is_dropped(case):
    assert differing(replace(reader(case), alpha="drop"), case["hashes"]) == []


def test_the_defaults_are_the_rule_of_models_saved_before_the_other_rules_existed():
    saved = {"resize": 32, "crop": 32, "interpolation": "bicubic", "mean": [0, 0, 0], "std": [1, 1, 1],
             "background": [255, 0, 0], "fit": "pad"}  # fmt: skip
    preprocess = Preprocess.from_dict(saved)
    assert (preprocess.convert, preprocess.alpha) == ("before", "background")
    assert (preprocess.long_side, preprocess.crop_offset) == ("round", "round")
    pixels = preprocess(Image.new("RGBA", (20, 40), (0, 0, 255, 0)))
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.float32([1, 0, 0])[:, None, None], (3, 32, 32)))


def test_every_rule_survives_the_config():
    for given in (Preprocess(fit="pad"), preprocess_from_hf({}), preprocess_from_open_clip({"resize_mode": "longest"})):
        assert Preprocess.from_dict(json.loads(json.dumps(given.to_dict()))) == given


def test_a_number_as_size_means_what_it_meant_to_the_processor_that_wrote_it():
    old = preprocess_from_hf({"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224})
    assert old == preprocess_from_hf({"image_processor_type": "CLIPImageProcessorFast"})
    assert old == preprocess_from_hf({"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}})
    siglip = preprocess_from_hf({"image_processor_type": "SiglipImageProcessor", "size": 384})
    assert (siglip.fit, siglip.resize, siglip.crop) == ("squash", 384, 384)


def test_a_file_without_sizes_takes_the_size_of_the_tower():
    clip = preprocess_from_hf({"image_processor_type": "CLIPImageProcessor"}, default_size=336)
    assert (clip.resize, clip.crop) == (336, 336)
    siglip = preprocess_from_hf({"image_processor_type": "SiglipImageProcessor"}, default_size=256)
    assert (siglip.resize, siglip.crop, siglip.mean) == (256, 256, (0.5, 0.5, 0.5))


def test_null_and_unknown_keys_of_open_clip_mean_its_defaults():
    assert preprocess_from_open_clip({"mean": None, "fill_color": None, "crop_pct": 0.9}) == openai_preprocess(224)
    assert preprocess_from_open_clip({"interpolation": "random"}).interpolation == "bicubic"


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"image_processor_type": "Siglip2ImageProcessor"}, "Did you mean 'SiglipImageProcessor'"),
        ({"do_normalize": False}, "do_normalize = False; true"),
        ({"rescale_factor": 1}, "rescale_factor = 1; 1/255"),
        ({"rescale_factor": "x"}, "rescale_factor = 'x'"),
        ({"resample": 0}, "resample = 0; 1 or 2 or 3"),
        ({"resample": [3]}, "resample"),
        ({"size": {"longest_edge": 224}}, "longest_edge"),
        ({"size": {"height": 224, "width": 336}}, "a square"),
        ({"size": {"shortest_edge": 224}, "do_center_crop": False}, "would not be square"),
        ({"size": {"shortest_edge": float("inf")}}, "size = inf"),
        ({"crop_size": -1}, "crop_size = -1; a whole number from 1"),
        ({"image_mean": [0.5]}, r"image_mean = \[0.5\]"),
    ],
)
def test_what_a_transformers_file_may_not_say_is_named(config, named):
    with pytest.raises(BabelclipError, match=named):
        preprocess_from_hf(config)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"size": [224, 336]}, r"size = \[224, 336\]; a square"),
        ({"resize_mode": "stretch"}, "'shortest' or 'squash' or 'longest'"),
        ({"interpolation": "lanczos"}, "interpolation"),
        ({"mode": "L"}, "mode = 'L'; 'RGB'"),
        ({"std": [0.5, 0, 0.5]}, "no std of 0"),
        ({"size": "224"}, "size = '224'"),
    ],
)
def test_what_an_open_clip_file_may_not_say_is_named(config, named):
    with pytest.raises(BabelclipError, match=named):
        preprocess_from_open_clip(config)


@pytest.mark.parametrize(
    ("field", "value", "meant"),
    [
        ("fit", "squish", "squash"),
        ("convert", "befor", "before"),
        ("alpha", "dropp", "drop"),
        ("long_side", "flor", "floor"),
    ],
)
def test_an_unknown_rule_names_the_closest(field, value, meant):
    with pytest.raises(BabelclipError, match=f"Did you mean '{meant}'"):
        Preprocess(**{field: value})


def test_longest_keeps_the_whole_picture_and_fills_the_square():
    preprocess = Preprocess(resize=40, crop=40, mean=(0, 0, 0), std=(1, 1, 1), fit="longest", fill_color=51)
    pixels = preprocess(Image.new("RGB", (80, 20), "white"))
    np.testing.assert_allclose(pixels[:, :15], 0.2, atol=1e-6)
    np.testing.assert_allclose(pixels[:, 15:25], 1)
    np.testing.assert_allclose(pixels[:, 25:], 0.2, atol=1e-6)


def sideways(folder: Path) -> Path:
    """A file of 30 x 20 pixels, black on the left, whose EXIF orientation says that it is to be turned."""
    picture = Image.new("RGB", (30, 20), "white")
    picture.paste("black", (0, 0, 15, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "sideways.png", exif=exif)
    return folder / "sideways.png"


def test_a_file_is_turned_upright_and_a_pil_picture_stays_as_it_lies(tmp_path):
    path = sideways(tmp_path)
    assert open_picture(path).size == (20, 30)
    with Image.open(path) as opened:
        assert open_picture(opened).size == (30, 20)
        lying = Preprocess()(open_picture(opened))
    upright = Preprocess()(open_picture(path))
    assert lying[0, 100, 0] < lying[0, 100, -1]
    assert upright[0, 0, 100] < upright[0, -1, 100]


def test_encode_image_turns_files_only(tmp_path, tiny_clip):
    path = sideways(tmp_path)
    with Image.open(path) as opened:
        stored, turned = opened.copy(), opened.transpose(Image.Transpose.ROTATE_270)
    vectors = tiny_clip.encode_image([path, turned, stored])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-4


def test_a_pil_picture_that_breaks_off_is_a_picture_error(tmp_path):
    draw_shape("red", "circle", size=200).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:300])
    with Image.open(tmp_path / "half.png") as opened, pytest.raises(PictureError, match="does not decode"):
        open_picture(opened)


@pytest.mark.parametrize("empty", [Image.new("RGB", (0, 5)), np.zeros((0, 5, 3), np.uint8)])
def test_an_empty_picture_is_a_picture_error(empty):
    with pytest.raises(PictureError):
        open_picture(empty)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_line_of_pixels_does_not_fill_the_memory(fit):
    with pytest.raises(PictureError, match="too narrow"):
        Preprocess(fit=fit)(Image.new("L", (1, 60000)))


def test_bytes_of_a_picture_inside_another_file_open_as_the_file_does(tmp_path: Path) -> None:
    class Row:
        def read_bytes(self) -> bytes:
            return path.read_bytes()

        def __str__(self) -> str:
            return "row 7"

    path = tmp_path / "a.png"
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(path)
    assert np.array_equal(np.asarray(open_picture(Row())), np.asarray(open_picture(path)))
    path.write_bytes(b"no picture")
    with pytest.raises(PictureError, match="row 7 does not decode"):
        open_picture(Row())


class Held:
    """A picture file in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read_bytes(self) -> bytes:
        return self.content


def saved(picture: Image.Image, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_every_orientation_is_turned_as_pillow_turns_it_and_no_second_time(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(np.arange(36, dtype=np.uint8).reshape(4, 3, 3)), kind, exif=exif)
    opened = open_picture(Held(content))
    with Image.open(io.BytesIO(content)) as picture:
        expected = ImageOps.exif_transpose(picture)
    np.testing.assert_array_equal(np.asarray(opened), np.asarray(expected))
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(opened)), np.asarray(expected))


def test_damaged_exif_data_do_not_lose_a_whole_picture():
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "hi", 6
    content = saved(draw_shape("red", "circle", size=40).crop((0, 0, 40, 20)), "JPEG", exif=exif)
    damaged = content.replace(b"\x01\x0e\x00\x02", b"\x01\x00\x00\x02")  # a width that is text
    assert damaged != content
    np.testing.assert_array_equal(np.asarray(open_picture(Held(damaged))), np.asarray(open_picture(Held(content))))
    assert open_picture(Held(damaged)).size == (20, 40)


def test_what_pillow_makes_of_a_damaged_file_is_a_picture_error_of_that_file(tmp_path, tiny_clip):
    content = bytearray(saved(draw_shape("red", "circle", size=16), "DDS"))
    content[80:84] = bytes(4)  # flags of the pixel format: none is known
    with pytest.raises(NotImplementedError):
        Image.open(io.BytesIO(content))
    (tmp_path / "odd.dds").write_bytes(content)
    with pytest.raises(PictureError, match=r"odd\.dds does not decode"):
        open_picture(tmp_path / "odd.dds")
    _, skipped = tiny_clip.image.encode_readable([tmp_path / "odd.dds"])
    assert [item.position for item in skipped] == [0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_file_of_16_grey_bits_keeps_its_upper_byte_and_does_not_turn_white(kind):
    grey = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    content = saved(Image.fromarray(grey), kind)
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.mode.startswith("I;16")
    np.testing.assert_array_equal(np.asarray(open_picture(Held(content))), grey >> 8)
