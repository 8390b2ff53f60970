"""What the README says is run: its Python, its commands, its links, its tree."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from babelclip.train.recipe import load_recipe
from tests.cli.test_cli import call
from tests.conftest import draw_shape, make_clip

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [command for command in re.findall(r"^\| `(babelclip [^`]+)` \|", README, flags=re.MULTILINE)]
SHORT = ["--set", "train.steps=4", "--set", "train.warmup_steps=1", "--set", "train.batch_size=2"]
SHORT += ["--set", "student.trainable=last 1 layers"]
INSTEAD = {
    # A whole run takes minutes; the recipe is the shipped one, only shorter.
    "train": SHORT,
    # Models come from a hub; here what people have translated.
    "translate": ["--to", "sv", "--engine", "dictionary", "--dictionary", "captions.jsonl"],
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder as the README's reader has it after `make demo`, with pictures and captions of one's own."""
    make_clip().save(tmp_path / "demo" / "teacher")
    make_clip(seed=3).save(tmp_path / "demo" / "student")
    (tmp_path / "Pictures").mkdir()
    lines = []
    for number, (colour, shape) in enumerate([("red", "circle"), ("blue", "square"), ("green", "circle")]):
        draw_shape(colour, shape).save(tmp_path / "Pictures" / f"{number}.png")
        for lang, text in (("en", f"a {colour} {shape}"), ("sv", f"en {colour} {shape} två")):
            lines.append(
                f'{{"id": "{number}:{lang}", "text": "{text}", "lang": "{lang}", "source_id": "{number}:en", '
                f'"image": "Pictures/{number}.png"}}'
            )
    (tmp_path / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("bird.jpg", "dog.jpg"):
        draw_shape("yellow", "square").save(tmp_path / name)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BABELCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_readme_runs(home):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 1
    names: dict[str, object] = {}
    exec(blocks[0], names)
    assert names["texts"].shape == (2, 16)
    assert names["indices"].shape == (1, 2)


def test_the_commands_of_the_readme_run_in_their_order(home):
    verbs = [command.split()[1] for command in COMMANDS]
    pictures, models = "search index search compare", "translate embed store train evaluate trim export starter"
    assert verbs == [*pictures.split(), *models.split(), "serve", "doctor", "models"]
    for command in COMMANDS:
        arguments = shlex.split(command)[1:]
        if arguments[0] in ("starter", "serve"):  # test_real_parts and test_serve run what they do
            code, out, error = call(*arguments, "--help")
            assert ("--out" if arguments[0] == "starter" else "--port") in out
        else:
            arguments = [re.sub(r"^~", str(home), argument) for argument in arguments]
            code, out, error = call(*arguments, *INSTEAD.get(arguments[0], []))
            assert out, command
        # The doctor may find this machine ill.
        assert code in ((0, 1) if arguments[0] == "doctor" else (0,)), (command, error)
    assert (home / "runs" / "mine" / "model" / "config.json").is_file()


def test_the_two_commands_exist_and_links_lead_somewhere():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_tree_of_the_readme_is_the_tree():
    tree = re.search(r"```\nbabelclip/\n(.*?)```", README, flags=re.DOTALL)
    assert tree is not None
    named = set(re.findall(r"^  (\w+)(?:/|\.py)", tree[1], flags=re.MULTILINE))
    parts = {path.name for path in (ROOT / "babelclip").iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert named - {"languages"} == parts


@pytest.mark.parametrize(
    "path", sorted([*ROOT.glob("recipes/*.toml"), *ROOT.glob("babelclip/**/recipe*.toml")]), ids=str
)
def test_every_shipped_recipe_is_one(path):
    assert load_recipe(path).train.steps > 0


def test_the_changelog_and_the_package_agree_on_the_version():
    from babelclip import __version__

    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"version: {__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
