"""The page in a real browser: Chromium without a window, against a real service of a tiny model."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from babelclip.search.collection import open_collection
from babelclip.search.index import index_pictures
from babelclip.search.server.served import Served
from tests.search.serving import make_collection, make_pictures, make_service, running, seeing_clip

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
WEB = Path(__file__).parents[3] / "babelclip" / "search" / "web"
DROP = """async ([bytes, type]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], 'dropped', { type }));
  for (const name of ['dragover', 'drop']) {
    document.body.dispatchEvent(new DragEvent(name, { dataTransfer: data, bubbles: true, cancelable: true }));
  }
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    clip = seeing_clip(folder)
    with running(make_service(make_collection(clip, folder), clip)) as at:
        yield at


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser, address):
    """Opens the page; afterwards nothing may have gone wrong in it, and nothing may have been asked of other hosts."""
    opened, faults = [], []

    def open_at(query: str = "", faults_expected: bool = False, **choices):
        context = browser.new_context(
            **{"locale": "en-GB", "viewport": {"width": 1100, "height": 700}, **choices},
            permissions=["clipboard-read", "clipboard-write"],
        )
        context.set_default_timeout(60_000)  # a loaded machine is slow, not wrong
        page = context.new_page()
        if not faults_expected:
            page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith((address, "blob:")) else faults.append(asked.url))
        page.goto(f"{address}/{query}")
        page.wait_for_selector(".card, .message:not([hidden])")
        opened.append(context)
        return page

    yield open_at
    for context in opened:
        context.close()
    assert faults == []


def search_for(page, text: str) -> dict:
    """Types a query, waits for its answer, and returns what was asked."""
    with page.expect_response(
        lambda answer: answer.url.endswith("/search") and text in (answer.request.post_data or "")
    ):
        page.fill("#query", text)
    page.wait_for_function("() => !document.querySelector('#grid').classList.contains('waiting')")
    return page.evaluate("Object.fromEntries(new URLSearchParams(location.search))")


def captions(page) -> list[str]:
    return page.eval_on_selector_all(".card", "cards => cards.map(card => card.getAttribute('aria-label'))")


def test_a_page_without_a_query_shows_pictures_and_queries_to_try(open_page):
    page = open_page()
    assert len(captions(page)) >= 40
    assert page.locator(".examples button").count() >= 2
    page.locator(".examples button").first.click()
    page.wait_for_url("**q=**")


def test_it_is_searched_in_four_scripts_while_typing_stops(open_page):
    page = open_page()
    for text, direction in (("två hundar", "ltr"), ("红 狗", "ltr"), ("красный", "ltr"), ("كلب أحمر", "rtl")):
        before = captions(page)
        assert search_for(page, text)["q"] == text
        assert page.title().startswith(text)
        assert captions(page)[:40] != before[:40]
        assert page.evaluate("getComputedStyle(document.querySelector('#query')).direction") == direction
        # The order is the service's own, best first.
        hits = page.evaluate(
            """async (query) => (await (await fetch('v1/collections/shapes/search', {method: 'POST',
            headers: {'Content-Type': 'application/json'}, body: JSON.stringify({query, k: 40})})).json()).hits""",
            text,
        )
        assert [hit["caption"] for hit in hits] == captions(page)[:40]


def test_captions_are_text_and_never_markup(open_page):
    page = open_page()
    assert all("<b>wide</b>" in caption for caption in captions(page)[:5])
    assert page.locator("main b").count() == 0


def test_scrolling_brings_all_pictures_each_once(open_page):
    page = open_page()
    for _turn in range(100):
        page.mouse.wheel(0, 4000)
        page.wait_for_timeout(100)
        if len(captions(page)) >= 96:
            break
    page.wait_for_timeout(300)
    assert len(captions(page)) == len(set(captions(page))) == 96


def test_rows_have_the_width_of_the_page_at_every_size(open_page):
    page = open_page()
    for width in (1100, 700, 390):
        page.set_viewport_size({"width": width, "height": 700})
        # However long the page takes to lay them out again: every row but the last ends where the page ends.
        page.wait_for_function(
            """() => {
              const edge = document.querySelector('#grid').getBoundingClientRect().right;
              const rows = [...document.querySelectorAll('.row')];
              const ends = rows.slice(0, -1).map(row => row.lastElementChild.getBoundingClientRect().right);
              return rows.length > 2 && ends.every(end => Math.abs(end - edge) < 1.5);
            }""",
            timeout=10_000,
        )
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_panel_opens_with_keys_and_gives_the_focus_back(open_page):
    page = open_page()
    page.keyboard.press("Escape")
    page.locator("#grid .card").first.wait_for()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.dataset.id")
    assert second == page.evaluate("document.querySelectorAll('.card')[1].dataset.id")
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel dl")
    assert f"item={second}" in page.url
    assert page.locator("#panel h2").inner_text() == captions(page)[1]
    page.keyboard.press("ArrowRight")
    third = page.evaluate("document.querySelectorAll('.card')[2].dataset.id")
    page.wait_for_url(f"**item={third}")
    page.keyboard.press("Escape")
    assert page.locator("#panel").is_hidden()
    assert page.evaluate("document.activeElement.dataset.id") == third


def test_arrow_keys_go_up_and_down_between_rows(open_page):
    page = open_page()
    page.locator(".card").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('.row') === document.querySelectorAll('.row')[1]")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.closest('.row') === document.querySelectorAll('.row')[0]")


def test_more_like_this_and_not_this_are_terms_that_can_be_turned_and_removed(open_page):
    page = open_page("?q=red")
    page.locator(".card").nth(3).click()
    with page.expect_request("**/search") as asked:
        page.get_by_role("button", name="More like this").click()
    (term,) = asked.value.post_data_json["terms"]
    assert term["weight"] == 1
    assert "like=" in page.url
    page.locator(".card").nth(2).click()
    with page.expect_request("**/search") as asked:
        page.get_by_role("button", name="− not this").click()
    assert [term["weight"] for term in asked.value.post_data_json["terms"]] == [1, -0.5]
    with page.expect_request("**/search") as asked:
        page.locator(".chip.minus .toggle").click()
    assert [term["weight"] for term in asked.value.post_data_json["terms"]] == [1, 1]
    with page.expect_request("**/search") as asked:
        page.locator(".chip .remove").first.click()
    assert len(asked.value.post_data_json["terms"]) == 1


def test_words_become_wanted_and_unwanted_chips(open_page):
    page = open_page()
    page.fill("#query", "circle")
    page.click("#plus")
    page.fill("#query", "-square")
    with page.expect_request("**/search") as asked:
        page.keyboard.press("Enter")
    assert asked.value.post_data_json["terms"] == [{"text": "circle", "weight": 1}, {"text": "square", "weight": -0.5}]
    assert "plus=circle" in page.url
    assert "minus=square" in page.url


def test_an_address_brings_back_what_was_asked_and_the_history_goes_back(open_page):
    page = open_page("?q=hund&plus=red&minus=blue&l=sv&cut=0.5")
    assert page.input_value("#query") == "hund"
    assert page.locator(".chip").count() == 3
    assert page.locator(".chip.language select").input_value() == "sv"
    with page.expect_request("**/search") as asked:
        page.reload()
    body = asked.value.post_data_json
    assert (body["query"], body["lang"], body["cut"]) == ("hund", "sv", 0.5)
    page.wait_for_selector(".card, .message:not([hidden])")
    page.click("#home")
    page.wait_for_url(re.compile(r"/$"))
    page.go_back()
    page.wait_for_url("**q=hund**")
    assert page.input_value("#query") == "hund"


@pytest.mark.parametrize("how", ["drop", "paste", "choose"])
def test_a_picture_is_the_question(open_page, tmp_path, how):
    page = open_page()
    path = make_pictures(tmp_path) / "green-circle-48.png"  # as the collection has it
    with page.expect_request("**/search") as asked:
        if how == "choose":
            page.set_input_files("#file", path)
        elif how == "drop":
            page.evaluate(DROP, [list(path.read_bytes()), "image/png"])
        else:
            page.evaluate(
                """(bytes) => { const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], 'p', {type: 'image/png'}));
                document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true})); }""",
                list(path.read_bytes()),
            )
    assert asked.value.post_data_json["terms"][0]["upload"].startswith("u_")
    page.wait_for_function(
        "() => document.querySelector('.card')?.getAttribute('aria-label').startsWith('green circle, 48')"
    )
    assert page.locator(".chip img").count() == 1


def test_a_picture_that_is_on_its_way_is_told_of(open_page, tmp_path):
    page = open_page()
    path = make_pictures(tmp_path) / "green-circle-48.png"
    held = []
    page.route("**/v1/uploads", lambda route: held.append(route))
    page.evaluate(DROP, [list(path.read_bytes()), "image/png"])
    page.wait_for_function("() => document.querySelector('#status').textContent.startsWith('Sending')")
    while not held:
        page.wait_for_timeout(20)
    held.pop().continue_()
    page.wait_for_function("() => document.querySelector('#status').textContent.includes(' ms')")


def test_what_is_shown_is_saved_as_json(open_page):
    page = open_page("?q=circle")
    with page.expect_download() as saved:
        page.click("#save")
    assert saved.value.suggested_filename == "shapes.json"
    rows = json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))
    assert [row["caption"] for row in rows] == captions(page)
    assert {"id", "score", "relative", "width"} <= set(rows[0])
    assert not {"thumbnail", "picture"} & set(rows[0])


def test_addresses_of_other_hosts_are_links_and_never_pictures(open_page):
    page = open_page()
    told = {"url": "https://elsewhere.example/a.jpg", "note": "javascript:alert(1)", "bytes": 1500}

    def with_columns(route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "columns": told})

    page.route("**/items/*", with_columns)
    page.locator(".card").first.click()
    link = page.locator("#panel dd a")
    link.wait_for()
    assert link.count() == 1
    assert link.get_attribute("href") == told["url"]
    assert {"noopener", "noreferrer"} <= set(link.get_attribute("rel").split())
    assert "1.5 kB" in page.inner_text("#panel dl")


def test_a_file_that_is_no_picture_is_refused_in_words(open_page):
    page = open_page(faults_expected=True)
    page.evaluate(DROP, [list(b"GIF89a, but not really"), "image/gif"])
    page.wait_for_selector(".message.error")
    assert "not a picture" in page.inner_text(".message.error") or "cannot be decoded" in page.inner_text(
        ".message.error"
    )
    page.wait_for_timeout(300)  # no next page of what was there before comes
    assert page.is_visible(".message.error")
    assert captions(page) == []
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".card")


def test_nothing_is_asked_while_an_input_method_puts_a_word_together(open_page):
    page = open_page()
    asked = []

    def note(request) -> None:
        # With a cursor it is a next page of pictures, which the end of the grid asks for by itself.
        if request.url.endswith("/search") and json.loads(request.post_data)["cursor"] is None:
            asked.append(json.loads(request.post_data)["query"])

    page.on("request", note)
    page.evaluate(
        """() => { const box = document.querySelector('#query'); box.focus();
        box.dispatchEvent(new CompositionEvent('compositionstart'));
        box.value = 'いぬ'; box.dispatchEvent(new InputEvent('input', {isComposing: true})); }"""
    )
    page.wait_for_timeout(500)
    page.keyboard.press("Enter")
    assert asked == []
    page.evaluate(
        """() => { const box = document.querySelector('#query'); box.value = '犬';
        box.dispatchEvent(new CompositionEvent('compositionend')); }"""
    )
    page.wait_for_timeout(600)
    assert asked == ["犬"]


def test_filters_narrow_what_is_shown_and_can_be_cleared(open_page):
    page = open_page("?q=circle")
    page.click("#filters-open")
    field = page.get_by_label("Width: from")
    field.fill("68")
    with page.expect_request("**/search") as asked:
        field.press("Enter")
    assert asked.value.post_data_json["where"] == {"op": "range", "column": "width", "gte": 68}
    page.wait_for_function("() => document.querySelectorAll('.card').length <= 12")
    assert all(", 68 " in caption for caption in captions(page))
    slider = page.get_by_role("slider")
    slider.focus()
    with page.expect_request("**/search") as asked:
        page.keyboard.press("End")
    assert asked.value.post_data_json["cut"] == 0.9999
    page.wait_for_selector(".message:not([hidden])")
    page.locator(".message").get_by_role("button", name="Clear filters").click()
    page.wait_for_function("() => document.querySelectorAll('.card').length > 12")


@pytest.mark.parametrize(
    ("locale", "direction", "words"), [("ar-EG", "rtl", "عمَّ تبحث؟"), ("ja-JP", "ltr", "何をお探しですか？")]
)
def test_the_page_speaks_the_language_of_the_reader(open_page, locale, direction, words):
    page = open_page(locale=locale)
    assert page.evaluate("document.documentElement.dir") == direction
    assert page.get_attribute("#query", "placeholder") == words
    if direction == "rtl":
        box, gear = (page.locator(one).bounding_box() for one in ("#query", "#filters-open"))
        assert gear["x"] < box["x"]
        page.locator(".card").first.focus()
        page.keyboard.press("ArrowLeft")
        assert page.evaluate("document.activeElement === document.querySelectorAll('.card')[1]")
    page.select_option("#interface", "sv")
    assert page.get_attribute("#query", "placeholder") == "Vad letar du efter?"


def test_a_service_that_is_gone_is_said_and_works_again_when_it_is_back(open_page, browser):
    page = open_page(faults_expected=True)
    page.route("**/search", lambda route: route.abort())
    page.fill("#query", "red")
    page.wait_for_selector(".message.error")
    assert "does not answer" in page.inner_text(".message.error")
    page.unroute("**/search")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".card")
    assert page.locator(".message").is_hidden()


def test_a_busy_service_is_asked_again_after_the_time_it_names(open_page):
    page = open_page(faults_expected=True)
    page.route("**/search", lambda route: route.fulfill(status=503, headers={"Retry-After": "1"}, body="{}"), times=1)
    page.fill("#query", "red")
    page.wait_for_selector(".message.error")
    page.wait_for_selector(".card", timeout=5000)


def test_what_the_page_says_follows_the_collection_that_is_chosen(browser, tmp_path):
    clip = seeing_clip(tmp_path)
    service = make_service(make_collection(clip, tmp_path), clip)
    few = make_pictures(tmp_path / "few", sizes=(40,))
    index_pictures(clip, [few], tmp_path / "few.lance", groups=False)
    service.collections["few"] = Served("few", open_collection(tmp_path / "few.lance"), 0.0)
    with running(service) as at:
        context = browser.new_context(locale="en-GB", permissions=["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.goto(at)
        page.wait_for_selector(".card")
        assert page.inner_text("#facts").startswith("Pictures: 96")
        with page.expect_response(lambda answer: "/few/search" in answer.url):
            page.select_option("#collection", "few")
        page.wait_for_function("() => document.querySelectorAll('.card').length <= 12")
        assert page.inner_text("#facts").startswith("Pictures: 12")
        page.select_option("#interface", "sv")
        page.wait_for_function("() => document.querySelector('#facts').textContent.startsWith('Bilder: 12')")
        page.click(".card")
        page.click(".panel .acts button:last-child")
        link = page.evaluate("navigator.clipboard.readText()")
        page.goto(link)  # opens in its own collection, which is not the first
        page.wait_for_selector(".panel h2:not([hidden])")
        assert page.eval_on_selector("#collection", "choice => choice.value") == "few"
        context.close()


def test_scrolling_goes_on_where_a_busy_service_stopped_it(open_page):
    page = open_page(faults_expected=True)
    begun, refused = [], []

    def busy_once(route):
        if '"cursor":null' in route.request.post_data:
            begun.append(1)
            return route.continue_()
        if refused:
            return route.continue_()
        refused.append(1)
        return route.fulfill(status=503, headers={"Retry-After": "1"}, body="{}")

    page.route("**/search", busy_once)
    search_for(page, "red")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_selector("#message:not([hidden])")
    assert refused
    page.wait_for_function("() => document.querySelectorAll('.card').length > 40")
    assert len(captions(page)) > 40
    assert page.is_hidden("#message")
    assert len(begun) == 1  # it is not asked from the start again


def test_every_control_has_a_name_and_every_text_contrast(open_page):
    page = open_page("?q=red")
    page.locator(".card").first.click()
    page.click("#filters-open")
    page.wait_for_selector("#panel dl")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input:not([hidden]), select, a')].filter((one) =>
        !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length || one.title
        || one.querySelector('img')?.alt))
        .map((one) => one.outerHTML)"""
    )
    assert nameless == []


def test_both_colour_schemes_have_the_contrast_of_wcag_aa():
    style = (WEB / "style.css").read_text(encoding="utf-8")
    schemes = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r"\{([^{}]*--page: #[^{}]*)\}", style)
    ]
    assert len(schemes) == 3
    assert schemes[1] == schemes[2], "dark by choice and dark by the system are the same"
    for colours in schemes:
        for ink in ("ink", "quiet", "accent", "minus"):
            for ground in ("page", "card"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        assert contrast(colours["ink"], colours["warn"]) >= 4.5
        assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
        assert contrast(colours["quiet"], colours["shade"]) >= 4.5
        assert contrast(colours["field"], colours["card"]) >= 3, "the edge of a field"


def contrast(first: str, second: str) -> float:
    """Contrast ratio of WCAG 2.1."""

    def luminance(colour: str) -> float:
        values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_all_languages_of_the_page_say_the_same_things():
    texts = json.loads((WEB / "texts.json").read_text(encoding="utf-8"))
    assert {"en", "sv", "de", "es", "fr", "zh", "ja", "ar"} <= set(texts)
    for code, own in texts.items():
        assert set(own) == set(texts["en"]), code
        for key, text in own.items():
            assert re.findall(r"\{\w+\}", text) == re.findall(r"\{\w+\}", texts["en"][key]), (code, key)
            assert text.strip()


def test_the_page_takes_nothing_from_other_hosts_and_runs_nothing_inline():
    for path in WEB.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name
        assert "innerHTML" not in text, path.name
    page = (WEB / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|style=", page)
