"""The site has every guide and every public name; `make docs` builds it, strictly, from requirements/docs.txt."""

from __future__ import annotations

import importlib
import importlib.util
import re
from importlib import import_module
from pathlib import Path

import pytest

import babelclip
from babelclip.errors import require

ROOT = Path(__file__).parents[2]
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs_site" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_guide_is_in_the_navigation_and_nothing_else():
    yaml = require("yaml", "dev")
    listed = set(re.findall(r"^ +- .*: ([\w/-]+\.md)$", CONFIG, flags=re.MULTILINE)) | {"index.md"}
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert listed - {"api/commands.md", "api/python.md"} == pages
    config = yaml.safe_load(CONFIG)
    assert config["theme"]["font"] is False  # no server of others is asked
    assert "not_found" in config["validation"]["links"]


def test_every_name_of_the_python_page_exists_and_the_public_ones_are_all_there(hooks):
    names = re.findall(r"^::: (\S+)$", hooks.python_page(), flags=re.MULTILINE)
    assert len(names) > 25
    for name in names:
        home, _, last = name.rpartition(".")
        assert importlib.util.find_spec(name) if last.islower() and not hasattr(import_module(home), last) else True, (
            name
        )
        assert importlib.util.find_spec(home) is not None, name
    defined = {f"{home}.{name}" for name, home in babelclip._HOMES.items()}
    assert {name for name in defined if name.rpartition(".")[0] not in names} <= set(names)


def test_the_page_of_the_command_line_has_every_verb(hooks):
    page = hooks.commands_page()
    for verb in ("search", "serve", "doctor", "store merge", "collection delete"):
        assert f"## babelclip {verb}\n" in page
    assert page.count("Examples:") > 15


def test_files_that_guides_link_to_outside_docs_come_along(hooks):
    targets = hooks.targets_outside(ROOT / "docs")
    assert "recipes/README.md" in targets
    assert any(target.startswith("results/") for target in targets)
    moved = hooks.on_page_markdown("[a](../results/x.json) [b](search.md)", None, None, None)
    assert moved == "[a](files/results/x.json) [b](search.md)"


def test_what_builds_the_site_is_pinned():
    lines = [line for line in (ROOT / "requirements" / "docs.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
