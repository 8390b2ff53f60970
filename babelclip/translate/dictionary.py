"""Translation by looking up: the exact source text in a table of human translations. For demos and tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from babelclip import languages
from babelclip.errors import BabelclipError

if TYPE_CHECKING:
    from babelclip.data.captions import Captions


class DictionaryEngine:
    """The translations of one table of captions. See `babelclip.translate.engine.Engine`.

    A row with a `source_id` translates the row of that id. Where a text has several translations into a language, the
    first row of the table counts.
    """

    name = "dictionary"
    batch_size = 4096

    def __init__(self, captions: Captions) -> None:
        """Takes the pairs of `captions`.

        Raises:
            BabelclipError: no row translates another.
        """
        source_ids = captions.table["source_id"].to_pylist()
        rows = dict(zip(captions.ids, zip(captions.langs, captions.texts, strict=True), strict=True))
        self._found: dict[tuple[str, str], dict[str, str]] = {}
        for lang, text, source_id in zip(captions.langs, captions.texts, source_ids, strict=True):
            if source_id in rows:
                source, original = rows[source_id]
                self._found.setdefault((source, lang), {}).setdefault(original, text)
        if not self._found:
            raise BabelclipError(
                f"None of the {len(captions)} captions of the dictionary translates another. A translation names the "
                "id of its source in the column source_id, and that row is in the table too: add them."
            )

    def languages(self) -> tuple[str, ...]:
        """Returns the languages that English texts have translations in."""
        return tuple(sorted(target for source, target in self._found if source == "en"))

    def model(self, target: str) -> str:
        """Returns how many English texts have a translation, for example "dictionary of 1,900 texts"."""
        return f"dictionary of {len(self._pairs('en', target)):,} texts"

    def translate(self, batch: Sequence[str], source: str, target: str) -> list[str]:
        """Returns the translations, "" for a text that the table lacks.

        Raises:
            BabelclipError: the table has nothing between these languages.
        """
        pairs = self._pairs(source, target)
        return [pairs.get(text, "") for text in batch]

    def close(self) -> None:
        """Does nothing."""

    def _pairs(self, source: str, target: str) -> dict[str, str]:
        pair = (languages.normalize(source), languages.normalize(target))
        if pair not in self._found:
            there = sorted(target for start, target in self._found if start == pair[0])
            raise BabelclipError(
                f"The dictionary has no translation from {pair[0]} into {pair[1]} ({languages.name(pair[1])}); from "
                f"{pair[0]} it has {', '.join(there) or 'none'}. Choose one of these, or another engine."
            )
        return self._found[pair]
