"""The demo's page, read back as a browser would read it."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from babelclip.starter.page import render_page
from babelclip.starter.page_gallery import thumbnail
from babelclip.starter.page_parts import el

VOID = {"img", "meta", "br", "circle", "line", "rect", "path", "polyline", "polygon", "use", "stop"}
QUERIES = {
    "ar": "ضفدع",
    "he": "צפרדע",
    "fa": "قورباغه",
    "sv": "en groda",
    "ja": "カエル",
    "hi": "एक मेंढक",
    "en": "a frog",
}
LANGUAGES = ["en", "de", "ar", "sv", "fi"]
HOSTILE = "</style></bdi><script>alert('1')</script><img src=https://example.org/x.png onerror=alert(1)>&amp;\""


class Page(HTMLParser):
    """Every element as (tag, attributes, its own text), and the order of closing tags checked."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[int] = []
        self.feed(html)
        self.close()
        assert not self.open, [self.elements[i][0] for i in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} names an attribute twice: {names}"
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID and self.elements[self.open[-1]][0] != tag:
            return  # </circle> after <circle>
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for index in self.open:
            self.elements[index][2].append(data)

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str], str]]:
        """Attributes and text of the elements of a tag; `class_="x"` asks for one class of several."""
        found = []
        for name, attributes, text in self.elements:
            classes = attributes.get("class", "").split()
            if name == tag and all(
                value in classes if key == "class_" else attributes.get(key) == value for key, value in wanted.items()
            ):
                found.append((attributes, "".join(text)))
        return found

    @property
    def text(self) -> str:
        return "".join(next(text for tag, _, text in self.elements if tag == "body"))


def figures(value: float) -> dict[str, float]:
    return {"R@1": value / 2, "R@5": value * 0.8, "R@10": value}


def table(name: str = "photos", **changes: Any) -> dict[str, Any]:
    values = {"foreign": 0.1, "before": 0.05, "ridge": 0.25, "after": 0.41}
    rows = [{"name": "English teacher", "kind": "teacher", "t2i": {"en": figures(0.62)}, "i2t": {"en": figures(0.6)}}]
    rows += [
        {
            "name": f"row {kind}",
            "kind": kind,
            "t2i": {code: figures(value + i / 100) for i, code in enumerate(LANGUAGES)},
            "i2t": {code: figures(value) for code in LANGUAGES},
        }
        for kind, value in values.items()
    ]
    content = {"id": name, "title": f"Pictures {name}", "note": "Some note", "n_images": 235, "rows": rows}
    return content | {"languages": LANGUAGES, "chance": {"R@1": 0.004, "R@10": 0.043}} | changes


@pytest.fixture
def frog(tmp_path: Path) -> Path:
    """A green disc, transparent around it, as the stamps are."""
    y, x = np.mgrid[:300, :400]
    inside = (x - 200) ** 2 + (y - 150) ** 2 < 120**2
    pixels = np.zeros((300, 400, 4), np.uint8)
    pixels[inside] = (40, 160, 60, 255)
    Image.fromarray(pixels).save(tmp_path / "frog.png")
    return tmp_path / "frog.png"


@pytest.fixture
def report(frog: Path) -> dict[str, Any]:
    def hit(rank: int) -> dict[str, Any]:
        return {"image": str(frog), "caption": f"Frog {rank}.", "score": 0.5 - rank / 100, "relevant": rank == 1}

    return {
        "title": "babelclip demo",
        "created": "2025-11-21T12:58:03+00:00",
        "seed": 17,
        "seconds": {"teacher targets": 61.3, "fine-tuning": 241.0},
        "total_seconds": 428.6,
        "machine": {"processor": "Some CPU", "cores": 2, "memory_gb": 7.8, "python": "3.12.3"},
        "versions": {"torch": "2.13.0"},
        "summary": {
            "E": 0.62,
            "chance": 0.043,
            "english": 0.55,
            "taught_mean": 0.35,
            "untaught_mean": 0.31,
            "ridge": {"english": 0.44, "taught_mean": 0.26, "untaught_mean": 0.23},
        },
        "languages": {code: {"taught": code in ("en", "de", "ar")} for code in LANGUAGES},
        "tables": [table("photos"), table("emoji-held-out")],
        "training": {
            "trivial_mse": 0.0025,
            "curve": [{"step": i, "loss": 0.003 / i, "mse": 0.002 / i, "lr": 1e-4} for i in range(1, 20)],
            "validation": [{"step": i, "mse": {"de": 0.002 / i, "ar": 0.0022 / i}} for i in (1, 10, 20)],
        },
        "gallery": [
            {"lang": code, "query": text, "english": "A frog.", "hits": [hit(i) for i in range(5)]}
            for code, text in QUERIES.items()
        ],
        "counts": {
            "training_texts": {"emoji names": {"en": 1500, "de": 1400}, "class names": {"en": 4800}},
            "removed_test_captions": 1288,
            "skipped_pictures": [{"name": "broken.png", "reason": "does not decode"}],
        },
        "missing": ["Tux Paint stamps: no apt-get here; install tuxpaint-stamps-default"],
        "attribution": ["Twemoji, CC-BY 4.0, https://creativecommons.org/licenses/by/4.0/"],
        "model_folder": "demo/student",
        "next_commands": ['babelclip search --in ~/Pictures "två hundar"', "babelclip --help"],
    }


def test_page_is_well_formed_and_has_its_sections_in_order(report: dict[str, Any]) -> None:
    page = Page(render_page(report))
    ids = [attributes["id"] for attributes, _ in page.all("h2")]
    assert ids == ["gallery", "languages", "tables", "training", "done", "next", "sources"]
    assert [attributes["href"] for attributes, _ in page.all("a")] == [f"#{name}" for name in ids]
    every = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(every) == len(set(every)), "an id stands twice"


def test_page_asks_nothing_of_the_network(report: dict[str, Any]) -> None:
    html = render_page(report)
    page = Page(html)
    policy = [attributes for attributes, _ in page.all("meta") if "http-equiv" in attributes]
    assert policy[0]["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    for tag, attributes, _ in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form", "foreignobject", "animate"}
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert not re.search(r"https?://|^//|url\(", value) or name.startswith("xmlns"), (tag, name, value)
            if name in {"src", "href", "xlink:href", "srcset"}:
                assert value.startswith(("data:image/webp;base64,", "#")), (tag, name, value[:40])
    style = "".join(text for _, text in page.all("style"))
    assert "@import" not in style
    assert "url(" not in style
    assert "@font-face" not in style


def test_headline_and_tiles_hold_the_main_figures(report: dict[str, Any]) -> None:
    page = Page(render_page(report))
    ((_, headline),) = page.all("p", class_="headline")
    for figure in ("55\N{NO-BREAK SPACE}%", "35\N{NO-BREAK SPACE}%", "31\N{NO-BREAK SPACE}%", "62\N{NO-BREAK SPACE}%"):
        assert figure in headline
    assert "235 photographs" in headline
    assert "chance is 4\N{NO-BREAK SPACE}%" in headline
    assert "0.89 of the teacher" in page.text
    assert "ridge head alone 26\N{NO-BREAK SPACE}%" in page.text
    for fact in ("seed 17", "2 cores", "Some CPU", "7 min 09 s", "torch 2.13.0", "Python 3.12.3"):
        assert fact in page.text


def test_every_query_has_its_language_and_direction(report: dict[str, Any]) -> None:
    queries = Page(render_page(report)).all("p", class_="query")
    assert {attributes["lang"]: text for attributes, text in queries} == QUERIES
    directions = {attributes["lang"]: attributes["dir"] for attributes, _ in queries}
    assert directions == {code: "rtl" if code in ("ar", "he", "fa") else "ltr" for code in QUERIES}


def test_captions_and_native_names_are_isolated_from_the_text_around_them(report: dict[str, Any]) -> None:
    report["gallery"][0]["hits"][0]["caption"] = "\N{RIGHT-TO-LEFT OVERRIDE}Frog"
    page = Page(render_page(report))
    isolated = page.all("bdi")
    assert "\N{RIGHT-TO-LEFT OVERRIDE}Frog" in [text for _, text in isolated]
    assert {"lang": "ar", "dir": "rtl"} in [attributes for attributes, text in isolated if text == "العربية"]


def test_every_picture_is_inside_the_page_and_described(report: dict[str, Any], frog: Path) -> None:
    pictures = Page(render_page(report)).all("img")
    assert len(pictures) == 5 * len(QUERIES)
    assert {attributes["alt"] for attributes, _ in pictures} >= {"Frog 1. (right)", "Frog 0. (not right)"}
    data = pictures[0][0]["src"].removeprefix("data:image/webp;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (picture.format, picture.size) == ("WEBP", (160, 120))
    assert min(picture.convert("RGB").getpixel((2, 2))) > 245, "what was transparent is white"  # type: ignore[type-var]
    red, green, blue = picture.convert("RGB").getpixel((80, 60))  # type: ignore[misc]
    assert green > 120
    assert max(red, blue) < 90


def test_right_pictures_are_marked_by_words_too(report: dict[str, Any]) -> None:
    page = Page(render_page(report))
    right = page.all("li", class_="right")
    assert len(right) == len(QUERIES)
    assert all("✓ right" in text for _, text in right)
    assert page.text.count("1 of the first 5 right") == len(QUERIES)


def test_hostile_text_stays_text_wherever_it_comes_from(report: dict[str, Any]) -> None:
    def poison(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: poison(part, name) for name, part in value.items()}
        if isinstance(value, list):
            return [poison(part, key) for part in value]
        known = key in ("id", "kind", "lang", "image", "languages", "created") or not isinstance(value, str)
        return value if known else value + HOSTILE

    poisoned = poison(report)
    poisoned["versions"] = {f"torch{HOSTILE}": f"1{HOSTILE}"}
    poisoned["seconds"] = {f"step{HOSTILE}": 1.0}
    poisoned["counts"]["training_texts"] = {f"source{HOSTILE}": {"en": 3}}
    page = Page(render_page(poisoned))
    tags = {tag for tag, _, _ in page.elements}
    assert "script" not in tags
    assert all(attributes["src"].startswith("data:") for attributes, _ in page.all("img"))
    assert page.text.count("<script>alert('1')</script>") > 60, "shown as written"
    assert any(HOSTILE in attributes["alt"] for attributes, _ in page.all("img"))


def test_unknown_language_code_and_half_surrogate_do_not_stop_the_page(report: dict[str, Any]) -> None:
    report["gallery"][0]["lang"] = 'xx-"><script>'
    report["gallery"][0]["query"] = "frog \ud83d"
    html = render_page(report)
    html.encode("utf-8")
    assert "script" not in {tag for tag, _, _ in Page(html).elements}


def test_table_shows_each_figure_under_its_language(report: dict[str, Any]) -> None:
    html = render_page(report | {"tables": [table("photos")]})
    start = html.index("<table", html.index('id="tables"'))
    first = Page(html[start : html.index("</table>", start) + len("</table>")])
    heads = [text for attributes, text in first.all("th", scope="col")]
    assert heads[:3] == ["Model", "mean of taught", "mean of untaught"]
    assert [head.split()[0].rstrip("●") for head in heads[3:]] == LANGUAGES
    assert [("●" in head) for head in heads[3:]] == [True, True, True, False, False]
    assert len(first.all("span", role="img", **{"aria-label": "taught"})) == 3
    numbers = [text for _, text in first.all("td")]
    width = len(heads) - 1
    rows = [numbers[i : i + width] for i in range(0, len(numbers), width)]
    assert rows[0] == ["–", "–", "62.0", "–", "–", "–", "–"], "the teacher knows English alone"
    assert rows[4] == ["42.5", "44.5", "41.0", "42.0", "43.0", "44.0", "45.0"]
    assert [text for _, text in first.all("th", scope="row")][4] == "row after"


def test_all_six_tables_are_there_and_all_but_one_folded(report: dict[str, Any]) -> None:
    html = render_page(report | {"tables": [table("photos")]})
    page = Page(html)
    titles = [text for _, text in page.all("figcaption") if "image," in text or "text," in text]
    assert [title.split(" ·")[0] for title in titles] == [
        f"{direction}, R@{k}"
        for direction, ks in (("Text to image", (10, 1, 5)), ("Image to text", (1, 5, 10)))
        for k in ks
    ]
    boxes = page.all("div", class_="scroll")
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes, _ in boxes)
    folded = "".join(text for _, text in page.all("details"))
    assert "Image to text, R@10" in folded
    assert "Text to image, R@10" not in folded


def test_mean_over_languages_is_left_out_where_one_is_missing(report: dict[str, Any]) -> None:
    photos = table("photos")
    del photos["rows"][4]["t2i"]["fi"]
    html = render_page(report | {"tables": [photos]})
    row = html[html.index("row after", html.index('id="tables"')) :]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", row)[:7]
    assert cells == ["42.5", "–", "41.0", "42.0", "43.0", "44.0", "–"]


def test_means_are_over_the_languages_that_the_summary_lists(report: dict[str, Any]) -> None:
    report["summary"] |= {"taught_languages": ["de"], "untaught_languages": ["fi"]}
    html = render_page(report | {"tables": [table("photos")]})
    row = html[html.index("row after", html.index('id="tables"')) :]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", row)[:2] == ["42.0", "45.0"]
    assert "Mean of untaught languages: Finnish." in Page(html).text


def test_table_with_many_columns_can_be_turned_on_paper(report: dict[str, Any]) -> None:
    codes = "en de ar sv fi nl th vi uk hi ko ja zh ru pl cs hu".split()
    page = Page(render_page(report | {"tables": [table(languages=codes)]}))
    turned = page.all("table", class_="turned")
    assert len(turned) == 6, "the languages without a figure have a column too"
    assert {attributes["style"] for attributes, _ in turned} == {f"--n:{len(codes) + 3}"}


def test_plots_name_every_language_and_the_trivial_predictor(report: dict[str, Any]) -> None:
    page = Page(render_page(report))
    drawn = "".join(text for _, text in page.all("svg"))
    for name in ("German", "Arabic", "Swedish", "Finnish"):
        assert name in drawn
    assert "trivial" in drawn.lower()
    assert "chance" in drawn.lower()


def test_counts_and_steps_are_listed(report: dict[str, Any]) -> None:
    page = Page(render_page(report))
    for fact in ("1,288 texts", "7,700", "6,300", "1 picture was left out", "broken.png", "1 min 01 s", "4 min 01 s"):
        assert fact in page.text, fact


def test_missing_parts_are_said_in_a_line(report: dict[str, Any]) -> None:
    page = Page(render_page(report))
    assert "no apt-get here; install tuxpaint-stamps-default" in page.text
    for empty in ({}, dict.fromkeys(report), {key: type(value)() for key, value in report.items()}):
        page = Page(render_page(empty))
        assert [a["id"] for a, _ in page.all("h2")][:2] == ["gallery", "languages"]
        assert len(page.all("p", class_="absent")) >= 6
        assert "None" not in page.text


@pytest.mark.parametrize("key", ["summary", "tables", "training", "gallery", "counts", "machine", "languages"])
def test_page_renders_without_any_one_part(report: dict[str, Any], key: str) -> None:
    assert len(Page(render_page(report | {key: None})).all("h2")) == 7
    del report[key]
    assert len(Page(render_page(report)).all("h2")) == 7


def test_picture_that_does_not_decode_leaves_a_gap_and_not_a_failure(report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    report["gallery"][0]["hits"][0]["image"] = str(tmp_path / "broken.png")
    report["gallery"][0]["hits"][1]["image"] = str(tmp_path / "absent.png")
    page = Page(render_page(report))
    assert page.text.count("picture does not decode") == 2
    assert len(page.all("img")) == 5 * len(QUERIES) - 2


def test_page_of_many_noisy_pictures_stays_below_three_megabytes(
    report: dict[str, Any], tmp_path: Path, rng: np.random.Generator
) -> None:
    Image.fromarray(rng.integers(0, 256, (160, 160, 3), dtype=np.uint8)).save(tmp_path / "noise.png")
    hits = [{"image": str(tmp_path / "noise.png"), "caption": "Noise", "score": 0.1}] * 5
    report["gallery"] = [{"lang": "sv", "query": "brus", "english": "noise", "hits": hits}] * 60
    assert len(render_page(report).encode()) < 3_000_000


def test_thumbnail_of_a_small_picture_is_not_blown_up(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), "red").save(tmp_path / "small.png")
    source = thumbnail(tmp_path / "small.png", 10_000)
    assert source is not None
    assert Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).size == (20, 10)


def test_elements_escape_children_and_attributes() -> None:
    made = el("p", "a < b & ", el("b", "c"), [None, '"d"'], class_='x"y', hidden=True, lang=None)
    assert made == '<p class="x&quot;y" hidden>a &lt; b &amp; <b>c</b>&quot;d&quot;</p>'


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_reach_contrast_aa_in_light_and_dark_and_print() -> None:
    css = resources.files("babelclip.starter").joinpath("page.css").read_text("utf-8")
    themes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    assert len(themes) == 3
    for theme in themes:
        for ink in ("ink", "quiet", "accent"):
            for ground in ("page", "card", "warn"):
                light, dark = sorted((luminance(theme[ink]), luminance(theme[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground, theme)
        for ink, ground in (("ink", "heat"), ("card", "right")):
            light, dark = sorted((luminance(theme[ink]), luminance(theme[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground, theme)
