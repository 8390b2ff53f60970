from __future__ import annotations

import numpy as np
import pytest

from babelclip.errors import BabelclipError
from babelclip.search.folder import index_folder, search_folder
from tests.conftest import draw_shape


def test_a_second_search_encodes_only_what_is_new(tiny_clip, picture_folder, tmp_path):
    first = index_folder(tiny_clip, picture_folder, cache=tmp_path / "cache")
    assert (len(first.paths), first.encoded, len(first.skipped)) == (12, 12, 1)
    assert "broken.jpg" in first.skipped[0].reason
    draw_shape("red", "circle", size=64).save(picture_folder / "new.png")
    (picture_folder / "blue-circle.png").unlink()
    second = index_folder(tiny_clip, picture_folder, cache=tmp_path / "cache")
    assert (len(second.paths), second.encoded) == (12, 1)
    assert "blue-circle.png" not in {path.name for path in second.paths}
    np.testing.assert_allclose(second.features, tiny_clip.encode_image(second.paths), atol=1e-6)


def test_a_changed_picture_is_encoded_again(tiny_clip, picture_folder, tmp_path):
    index_folder(tiny_clip, picture_folder, cache=tmp_path / "cache")
    draw_shape("yellow", "square", size=77).save(picture_folder / "red-circle.png")
    again = index_folder(tiny_clip, picture_folder, cache=tmp_path / "cache")
    assert again.encoded == 1
    np.testing.assert_allclose(again.features, tiny_clip.encode_image(again.paths), atol=1e-6)


def test_hits_are_the_pictures_of_the_highest_cosine(tiny_clip, picture_folder, tmp_path):
    index = index_folder(tiny_clip, picture_folder, cache=tmp_path / "cache")
    hits = search_folder(tiny_clip, index, ["två hundar", "a red circle"], k=3)
    cosines = tiny_clip.encode_text(["två hundar", "a red circle"]) @ index.features.T
    for row, found in zip(cosines, hits, strict=True):
        best = np.argsort(-row)[:3]
        assert [hit.path for hit in found] == [index.paths[i] for i in best]
        np.testing.assert_allclose([hit.score for hit in found], row[best], atol=1e-6)


def test_folders_without_readable_pictures_are_an_error(tiny_clip, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"no")
    with pytest.raises(BabelclipError, match="None of the 1 pictures"):
        index_folder(tiny_clip, tmp_path / "bad", cache=tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    for missing in ("empty", "absent"):
        with pytest.raises(BabelclipError):
            index_folder(tiny_clip, tmp_path / missing, cache=tmp_path / "cache")
