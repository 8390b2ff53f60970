"""Translations of programs, from Debian: Wesnoth with its campaigns, and GIMP. `gettext` reads them."""

from __future__ import annotations

from pathlib import Path

from babelclip.starter.debian import DebianPart

_VERSION = "1:1.16.9-1"
_CHECKSUMS = {
    "data": "1012b964bd412a6770685e3324ae3b61e176caff7846192d1ee63d55cd621e26",
    "did": "774619f5aaeb7eb4c848e1cc1758795a8c58e96bd270cceecc9d847dbcc769b3",
    "dm": "1997ad4d91e8de36415db2a3445904288f588a76d75111222d2aace409ace5c6",
    "dw": "47982e08b2a5d5fd79f400a5453f32c6d7dd56f2ccc10412a9e47dec8a9b3ca4",
    "ei": "687abe111ee662b7324336ddadc209758f68d2eeb1ccbf630238f27a0e3c6404",
    "httt": "05b16a3f8f8204278794aae14d8e6a7c95d2b2faef7337c4997c827a146d1bbd",
    "l": "5383c79046df6121929bc36a8ec3f970ab4cf9c1239ed9b31868201c27f4266d",
    "low": "2f304551b97b7fb76a2adb5ad8ffcac3e78476bc8ade17532c90714065c9bf9f",
    "nr": "13edcf1bdd23708f531ba81c67100c5800363a119f10155c7f9e146fe7dced34",
    "sof": "b6f1ddffdbd1a977f3965dae944e4fb11c147627471f1cfc71c92d1e69efb555",
    "sota": "fa44304ff53d259f3c5fe13c03cb8166e55e9c307807d1a5663048c396645ba6",
    "sotbe": "877a2f4a7fd8df54fd3b4561ffbd5fa95d0390d7c7372f3cb66367c8007918cb",
    "thot": "79d9ec6e43300ea9f41295ccf3fb451e8eeaefc17007123f65d77eb05cb88695",
    "trow": "b5009e964ac7157a46d50de911e4f56f5bb4389d60b82a513b5f382671d180d7",
    "tsg": "38b5f564253b8e0d9c093b2b7c58aabfef24f688968d9cbaf42abfc1e76d8288",
    "ttb": "d0d45693665305191488553ade8dc1d0aa26ab17d4bffae3bf6969db4a766329",
    "utbs": "81e05717bebbfb6348c0bed2cd6ce2560c4fd9205ed419c2e7bc039b4a70e228",
}


def _wesnoth(name: str, checksum: str) -> DebianPart:
    package = f"wesnoth-1.16-{name}"
    return DebianPart(
        title=f"translations of Wesnoth ({name})",
        package=package,
        version=_VERSION,
        sha256=checksum,
        inside="usr/share/games/wesnoth/1.16/locale",
        kept=(".mo",),
        licence="GPL-2.0-or-later",
        attribution="Sentences of Wesnoth and its campaigns, with their translations: Debian wesnoth-1.16, GPL-2+",
        # An installed Wesnoth has the catalogues of all its parts in one folder: taken once, with the main part.
        system=None if name == "data" else Path("/usr/share/doc", package, "locale"),
    )


WESNOTH: tuple[DebianPart, ...] = tuple(_wesnoth(name, checksum) for name, checksum in _CHECKSUMS.items())
GIMP = DebianPart(
    title="translations of GIMP",
    package="gimp-data",
    version="2.10.34-1+deb12u10",
    sha256="89007a69d4ef2b0440e5419e75d4112cfd1c49e97db38220d210b9f86322be7c",
    inside="usr/share/locale",
    kept=(".mo",),
    licence="GPL-3.0-or-later",
    attribution="Strings of GIMP and their translations: Debian gimp-data 2.10.34, GPL-3+",
    # The folder of the system holds the catalogues of all programs; these are to be GIMP's alone.
    system=Path("/usr/share/doc/gimp-data/locale"),
)
