"""Language codes: one canonical BCP-47 code for the codes of FLORES, NLLB, POSIX, ISO 639-3 and benchmarks.

Every public place of babelclip speaks BCP-47, and this module alone knows the others. The facts lie in
`languages.tsv`, a table of one line a language; it is read on the first question and importing this module costs
nothing. Entry points: `normalize`, `name`, `native_name`, `script`, `is_rtl`, `flores`, `read_as`, `covers`,
`known`.

Choices where practice disagrees:

* `zh` is Chinese in simplified characters (`zh_CN`, `cn`, `zho_Hans`), `zh-Hant` in traditional ones (`zh_TW`).
* `tl` and `tgl_Latn` are `fil`, as in Unicode CLDR, so that Tagalog in one set meets Filipino in another.
* `no` (as in XM3600) keeps its own code beside `nb` and `nn`; `covers` knows that they belong together.
* `jp` and `cn` are country codes that benchmarks use for languages: accepted. `kr` is not: in ISO 639 it is Kanuri.
* `pt` and `pt-BR`, `en` and `en-GB` stay apart, because data sets such as Tux Paint carry captions in both.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from typing import NamedTuple

from babelclip.errors import BabelclipError, closest

_RIGHT_TO_LEFT = frozenset({"Adlm", "Arab", "Hebr", "Mand", "Mend", "Nkoo", "Rohg", "Samr", "Syrc", "Thaa"})

# POSIX names a script or a variety after "@" (sr@latin); "@euro" and the like say nothing about the language.
_POSIX_MODIFIERS = {
    "latin": "latn",
    "cyrillic": "cyrl",
    "arabic": "arab",
    "devanagari": "deva",
    "valencia": "valencia",
}

# A code on the left is a part of the macrolanguage on the right.
_MACROLANGUAGES = {"nb": "no", "nn": "no", "quy": "qu", "quz": "qu", "prs": "fa", "tw": "ak", "dik": "din", "fuv": "ff"}

_REGIONS = frozenset(
    """AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ
    CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR
    GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO
    JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR
    MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO
    RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV
    TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW 001 150 419""".split()
)


class UnknownLanguageError(BabelclipError):
    """A language code that the table does not hold; the message names the closest codes."""


class Language(NamedTuple):
    """The facts of one language: `code` BCP-47, `script` ISO 15924, `region` the one that the bare code implies."""

    code: str
    name: str
    native: str
    script: str
    region: str
    flores: str


class _Table(NamedTuple):
    languages: dict[str, Language]
    codes: dict[str, str]  # every accepted spelling in lower case with hyphens -> canonical code
    scripts: dict[str, str]  # script in lower case -> ISO 15924


@functools.cache
def _table() -> _Table:
    languages: dict[str, Language] = {}
    codes: dict[str, str] = {}
    with open(os.path.join(os.path.dirname(__file__), "languages.tsv"), encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file if not line.startswith("#")]
    for *facts, aliases in rows[1:]:
        language = Language(*facts)
        languages[language.code] = language
        for spelling in (language.code, language.flores.replace("_", "-"), *aliases.split()):
            codes[spelling.lower()] = language.code
    del codes[""]  # of the rows without a FLORES code
    scripts = {language.script.lower(): language.script for language in languages.values()}
    scripts["hang"] = "Kore"  # FLORES names Korean after Hangul alone
    return _Table(languages, codes, scripts)


def lookup(code: str) -> Language:
    """Returns all facts of a language; see `normalize` for the codes that are accepted.

    Raises:
        UnknownLanguageError: the code is not known; the message names the closest ones.
    """
    language = _find(code) if isinstance(code, str) else None
    if language is None:
        raise UnknownLanguageError(_unknown(code))
    return language


def normalize(code: str) -> str:
    """Returns the canonical BCP-47 code of a language.

    Accepted, in any case and with `-` or `_`: BCP-47 (`pt-BR`), FLORES and NLLB (`deu_Latn`), POSIX
    (`zh_TW.UTF-8`, `sr@latin`), ISO 639-2 and -3 (`ger`, `deu`), retired codes (`iw`), and `jp`, `cn`. A script or
    a region that the language implies anyway is dropped: `sv-Latn-SE` is `sv`.

    >>> normalize("deu_Latn"), normalize("zh_TW"), normalize("jp"), normalize("ca@valencia")
    ('de', 'zh-Hant', 'ja', 'ca-valencia')

    Raises:
        UnknownLanguageError: the code is not known; the message names the closest codes with their names.
    """
    return lookup(code).code


def name(code: str) -> str:
    """Returns the English name, for example `Chinese (Traditional)`."""
    return lookup(code).name


def native_name(code: str) -> str:
    """Returns the name in the language itself, or the English name where the table knows no other."""
    return lookup(code).native


def script(code: str) -> str:
    """Returns the ISO 15924 code of the script that the language is written in, for example `Cyrl`."""
    return lookup(code).script


def is_rtl(code: str) -> bool:
    """Returns whether the language is written from right to left."""
    return lookup(code).script in _RIGHT_TO_LEFT


def flores(code: str) -> str | None:
    """Returns the FLORES-200 code, or None where FLORES lacks the language; `nllb_token` is NLLB-200's own."""
    return lookup(code).flores or None


def read_as(code: str) -> str | None:
    """Returns the language of FLORES-200 as which a text is best read: the same, or its closest kin in the same script.

    That is the language without its region or variety (`pt-BR`: `pt`), or a member of the same macrolanguage (`no`:
    `nb`, `quz`: `quy`); None where FLORES has no kin. It is no answer to what to write: a translation into `quy` is
    none into `quz`.

    Raises:
        UnknownLanguageError: the code is not known.
    """
    language = lookup(code)
    parents = _parents(language.code)
    whole = next((_MACROLANGUAGES[one] for one in parents if one in _MACROLANGUAGES), parents[-1])
    kin = [*parents, whole, *(member for member, of in _MACROLANGUAGES.items() if of == whole)]
    return next((one for one in kin if flores(one) and script(one) == language.script), None)


def nllb_token(flores_code: str) -> str:
    """Returns the word of NLLB-200's vocabulary for a FLORES-200 code: the same, but Santali is called `sat_Beng`."""
    return "sat_Beng" if flores_code == "sat_Olck" else flores_code


def known() -> tuple[str, ...]:
    """Returns the canonical codes of the table, sorted. Other regions of these languages are accepted as well."""
    return tuple(_table().languages)


def covers(declared: Iterable[str], code: str) -> bool:
    """Returns whether a model that declares some languages was made for this one.

    That is so for the language itself and for a region or variety of it in the same script: `pt` covers `pt-BR`,
    `no` covers `nb` and `nn`, but `zh` does not cover `zh-Hant`.
    """
    language = lookup(code)
    codes = {normalize(other) for other in declared}
    if language.code in codes or (language.code == "no" and "nb" in codes):
        return True
    parents = _parents(language.code)[1:]
    parents.append(_MACROLANGUAGES.get(language.code.split("-")[0], ""))
    return any(parent in codes and lookup(parent).script == language.script for parent in parents)


def _parents(code: str) -> list[str]:
    """Returns a code and what is left of it as its subtags go, the last first: `zh-Hant-HK`, `zh-Hant`, `zh`."""
    return [code.rsplit("-", n)[0] for n in range(code.count("-") + 1)]


def _find(code: str) -> Language | None:
    """Returns the language of a code, or None where a part of the code is not known."""
    table = _table()
    key, _, modifier = code.strip().lower().replace("_", "-").partition("@")
    key = key.split(".")[0]  # POSIX locales carry an encoding: sv_SE.UTF-8
    first, *subtags = key.split("-")
    if modifier in _POSIX_MODIFIERS:
        subtags.insert(0, _POSIX_MODIFIERS[modifier])
    key = "-".join([first, *subtags])
    if key in table.codes:
        return table.languages[table.codes[key]]
    if first not in table.codes or sum(len(subtag) != 4 for subtag in subtags) > 1:
        return None
    language = table.languages[table.codes[first]]
    for subtag in subtags:
        narrower = _narrow(language, subtag)
        if narrower is None:
            return None
        language = narrower
    return language


def _narrow(language: Language, subtag: str) -> Language | None:
    """Returns the language with one more subtag, the same one where the subtag adds nothing, or None."""
    table = _table()
    listed = table.codes.get(f"{language.code}-{subtag}".lower())
    if listed is not None:
        return table.languages[listed]
    written = table.scripts.get(subtag)
    region = subtag.upper()
    if subtag == language.region.lower() or written == language.script:
        return language
    if written is not None and "-" not in language.code:
        return language._replace(
            code=f"{language.code}-{written}", name=f"{language.name} ({written})", script=written, flores=""
        )
    if region in _REGIONS and not language.code.endswith(f"-{language.region}"):
        return language._replace(
            code=f"{language.code}-{region}", name=f"{language.name} ({region})", region=region, flores=""
        )
    return None


def _unknown(code: object) -> str:
    matches = _nearest(code) if isinstance(code, str) else []
    near = ", ".join(f"{match} ({_table().languages[match].name})" for match in matches)
    return (
        f"{code!r} is not a language code that babelclip knows. Allowed are BCP-47 codes such as 'sv' or 'zh-Hant' "
        "and FLORES codes such as 'swe_Latn' (babelclip.languages.known() lists them). "
        + (f"Did you mean {near}?" if near else "Look the code up by the English name of the language.")
    )


def _nearest(given: str, n: int = 3) -> list[str]:
    """Returns the canonical codes that a user may have meant: by name, by country, by spelling."""
    table = _table()
    wanted = given.strip().lower().replace("_", "-")
    # Names outrank codes: "swedish" is one, while "dk" resembles dozens of codes and is a country.
    names: dict[str, str] = {}
    for language in table.languages.values():
        for label in (language.name, language.native, language.name.partition(" (")[0]):
            names.setdefault(label.lower(), language.code)
    if wanted in names:
        return [names[wanted]]
    inhabitants = [item for item in table.languages.values() if item.region.lower() == wanted and "-" not in item.code]
    inhabitants.sort(key=lambda item: (len(item.code), not item.flores))
    if inhabitants:
        return [item.code for item in inhabitants[:n]]
    stem = wanted.split("-")[0]
    if stem != wanted and stem in table.codes:
        return [table.codes[stem]]
    spellings = {**names, **table.codes} if len(wanted) > 3 else table.codes
    found = [spellings[match] for match in closest(wanted, spellings, n=2 * n)]
    return list(dict.fromkeys(found))[:n]
