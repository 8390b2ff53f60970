from __future__ import annotations

import pytest

from babelclip.errors import BabelclipError
from babelclip.languages import UnknownLanguageError
from babelclip.search.collection import open_collection
from babelclip.search.compare import compare, translations
from babelclip.search.index import index_pictures
from tests.conftest import make_clip

pytest.importorskip("lancedb")


@pytest.fixture
def indexed(tmp_path, picture_folder):
    clip = make_clip()
    index_pictures(clip, [picture_folder], tmp_path / "p.lance", groups=False)
    return clip, open_collection(tmp_path / "p.lance")


class Shouting:
    """An engine that translates by writing in capitals."""

    name, batch_size = "shouting", 8

    def languages(self):
        return ("de", "sv")

    def translate(self, batch, source, target):
        return [f"{text.upper()} {source}-{target}" for text in batch]


def test_languages_are_compared_with_the_reference(indexed):
    clip, collection = indexed
    rows = compare(collection, clip, {"en": "a red circle", "sv": "a red circle", "zh": "狗"}, 4)
    assert [row.lang for row in rows][:2] == ["en", "sv"]
    assert (rows[0].overlap, rows[1].overlap) == (1.0, 1.0)
    assert rows[1].cosine == pytest.approx(1.0, abs=1e-5)
    assert rows[2].cosine < 0.999
    assert [row.declared for row in rows] == [True, True, False]
    assert all(row.best >= row.mean for row in rows)
    wanted = {hit.id for hit in rows[0].hits}
    assert rows[2].overlap == len(wanted & {hit.id for hit in rows[2].hits}) / len(wanted)


def test_one_language_or_an_unknown_one_cannot_be_compared(indexed):
    clip, collection = indexed
    with pytest.raises(BabelclipError, match="two languages"):
        compare(collection, clip, {"en": "dog"})
    with pytest.raises(UnknownLanguageError):
        compare(collection, clip, {"en": "dog", "qqq": "x"})


def test_translations_are_told_or_from_a_table_or_by_an_engine(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("id,text,lang,source_id\n1,A dog.,en,\n2,En hund.,sv,1\n3,Ein Hund.,de,1\n4,Un chat.,fr,9\n")
    assert translations("a dog.", "en", captions=table) == {"en": "a dog.", "sv": "En hund.", "de": "Ein Hund."}
    found = translations("a dog.", "en", told=["sv=en jycke"], captions=table, to=["sv"])
    assert found == {"en": "a dog.", "sv": "en jycke"}
    made = translations("dog", "en", told=["zh=狗"], engine=Shouting())
    assert made == {"en": "dog", "zh": "狗", "de": "DOG en-de", "sv": "DOG en-sv"}
    with pytest.raises(BabelclipError, match="language=text"):
        translations("dog", "en", told=["hund"])
    with pytest.raises(BabelclipError, match="no translation of 'bird'"):
        translations("bird", "en", captions=table)
