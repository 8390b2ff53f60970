"""What is published holds what runs: every data file of the package, and nothing that is not its own."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[list[str], list[str], dict[str, str]]:
    """The wheel's and the source archive's file names, and the wheel's texts, built from what git knows, offline."""
    if find_spec("setuptools") is None or tuple(map(int, _version().split(".")[:2])) < (77, 0):
        pytest.skip("setuptools 77 is not installed here")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no checkout")
    folder = tmp_path_factory.mktemp("build")
    for name in listed.stdout.split("\0"):
        if name and not name.startswith(("tests/golden", "results/")) and (ROOT / name).is_file():
            place = folder / "source" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((ROOT / name).read_bytes())
    code = f"import setuptools.build_meta as b\nb.build_wheel({str(folder)!r}); b.build_sdist({str(folder)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder / "source", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    [archive] = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        texts = {name: file.read(name).decode() for name in names if "dist-info" in name}
    with tarfile.open(archive) as file:
        sources = [name.partition("/")[2] for name in file.getnames()]
    return names, sources, texts


def _version() -> str:
    from importlib.metadata import version

    return version("setuptools")


def test_the_wheel_has_every_file_of_the_package_and_no_other(built):
    names, _sources, _texts = built
    ours = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    listed = subprocess.run(["git", "ls-files", "babelclip"], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    assert ours == expected
    assert "babelclip/search/web/index.html" in ours


def test_the_wheel_says_what_it_is(built):
    _names, _sources, texts = built
    [metadata] = [text for name, text in texts.items() if name.endswith("/METADATA")]
    facts = message_from_string(metadata)
    assert facts["License-Expression"] == "MIT"
    assert facts["Requires-Python"] == ">=3.10"
    assert "search" in facts.get_all("Provides-Extra")
    assert "# babelclip" in facts.get_payload()
    assert any(name.endswith("/licenses/LICENSE") for name in texts)
    [scripts] = [text for name, text in texts.items() if name.endswith("/entry_points.txt")]
    assert "babelclip = babelclip.cli.main:main" in scripts


def test_the_source_archive_has_recipes_guides_and_no_tests(built):
    _names, sources, _texts = built
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "constraints.txt", "recipes/teach.toml", "docs/index.md",
                 "requirements/starter.txt", "mkdocs.yml"):  # fmt: skip
        assert name in sources, name
    assert not [name for name in sources if name.startswith(("tests", "results", ".git", "build"))]
