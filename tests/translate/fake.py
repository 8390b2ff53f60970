"""Engines for tests: one that "translates" by a rule, and others that do it wrong."""

from __future__ import annotations

import os
import time
from pathlib import Path

from babelclip.errors import BabelclipError
from babelclip.translate.choices import EngineChoice

LANGUAGES = ("da", "de", "fi", "fr", "ru", "sv")
WORDS = {"sv": "en", "de": "ein", "fr": "un", "da": "et", "fi": "se"}


class FakeEngine:
    """Puts the language before each word; notes what it is asked for in the file that FAKE_LOG names."""

    name = "fake"
    batch_size = 50

    def __init__(self, pause=0.0, model="fake-1"):
        self.batches, self.closed, self._pause, self._model = [], 0, pause, model

    def languages(self):
        return LANGUAGES

    def model(self, target):
        return f"{self._model}-{target}"

    def translate(self, batch, source, target):
        self.batches.append(list(batch))
        time.sleep(self._pause)
        if log := os.environ.get("FAKE_LOG"):
            with Path(log).open("a", encoding="utf-8") as file:
                file.write("".join(f"{target}\t{text}\n" for text in batch))
        return [translation(text, target) for text in batch]

    def close(self):
        self.closed += 1


def translation(text, target):
    """What the engine makes of a text; one with "bad" in it comes back as it was, one with "none" not at all."""
    if "none" in text:
        return ""
    return text if "bad" in text else " ".join(f"{target}{word}" for word in text.split())


class TooFew(FakeEngine):
    def translate(self, batch, source, target):
        return super().translate(batch, source, target)[:-1]


class NoText(FakeEngine):
    def translate(self, batch, source, target):
        return [None for _text in batch]


class Failing(FakeEngine):
    """Fails at the second language."""

    def translate(self, batch, source, target):
        if target == "de":
            raise BabelclipError("the engine has no more of it. All must end: buy more.")
        return super().translate(batch, source, target)


class Dying(FakeEngine):
    def translate(self, batch, source, target):
        os._exit(77)


class Interrupted(FakeEngine):
    """Ctrl-C at the second language."""

    def translate(self, batch, source, target):
        if target == "de":
            raise KeyboardInterrupt
        return super().translate(batch, source, target)


def open_fake(device):
    return FakeEngine()


def open_slow(device):
    return FakeEngine(pause=0.004)


def open_newer(device):
    return FakeEngine(model="fake-2")


def open_too_few(device):
    return TooFew()


def open_no_text(device):
    return NoText()


def open_failing(device):
    return Failing()


def open_dying(device):
    return Dying()


def open_interrupted(device):
    return Interrupted()


FAKE = EngineChoice("fake", opener=open_fake)
