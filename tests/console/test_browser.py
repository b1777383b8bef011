"""The reviewer's page in a browser: by keyboard alone, at two widths, and with axe's checks of accessibility.

They need Playwright and Debian's chromium; without these they are skipped.
"""

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guardproxy.reviews import Label
from tests.console.kit import (
    HOSTILE,
    KEYS,
    Console,
    console,
    exclusions_of,
    fill,
    judged,
    labels_of,
    many,
    name_of,
    sqlite,
)

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="left out: the browser tests of the reviewer's page; they need playwright"
)
CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parent / "axe" / "axe.min.js"
WIDE, NARROW = (1280, 900), (390, 844)
PAGES = (
    "/feed",
    f"/records/{name_of(3)}",
    "/queue",
    "/workbench",
    "/overview?over=24h",
    "/try",
    "/exclusions",
    "/queue?client=nobody",
    "/feed?user=nobody",
)

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        CHROMIUM is None, reason="left out: the browser tests of the reviewer's page; they need chromium"
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    """A browser without a window."""
    with sync_api.sync_playwright() as playwright:
        # The sandbox needs a user other than root; the pages are our own.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A page without keys, with records, labels and a hostile text."""
    address = sqlite(tmp_path_factory.mktemp("browser"))
    given = [Label(name_of(number), "correct", "anna", time.time()) for number in range(10, 20)]
    fill(address, [*many(40), judged(0, HOSTILE, 0.97)], given)
    with console(address) as running:
        yield running


@contextmanager
def tab(browser: "sync_api.Browser", size: tuple[int, int] = WIDE, scheme: str = "light") -> Iterator["sync_api.Page"]:
    """A page of a fresh browser profile, in which no script may fail and nothing may be blocked."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    context.set_default_timeout(60_000)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    yield page
    context.close()
    assert problems == []


def test_signing_in(browser: "sync_api.Browser", tmp_path: Path) -> None:
    """Somebody without a session signs in by keyboard and arrives where they wanted to go."""
    address = sqlite(tmp_path)
    fill(address, many(6))
    with console(address, KEYS) as running, tab(browser) as page:
        page.goto(running.at("/overview?over=7d"))
        assert page.url.startswith(running.at("/sign-in"))
        page.keyboard.type(KEYS["anna"][1])
        page.keyboard.press("Enter")
        page.wait_for_url(running.at("/overview?over=7d"))
        assert page.get_by_text("anna").is_visible()
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/sign-in")


def test_filters(browser: "sync_api.Browser", local: Console) -> None:
    """A facet and a search narrow the table, stand in the address, and can be removed."""
    with tab(browser) as page:
        page.goto(local.at("/feed"))
        page.get_by_role("complementary").get_by_role("link", name=re.compile("^block")).click()
        page.wait_for_url("**/feed?action=block")
        page.get_by_label("Search texts").fill("bomb")
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile("text=bomb"))
        assert "action=block" in page.url
        texts = page.locator("#rows .text a").all_inner_texts()
        assert texts
        assert all("bomb" in text for text in texts)
        page.get_by_role("link", name=re.compile("action block")).click()
        page.wait_for_url(lambda url: "action=" not in url)


def test_new_records_appear(browser: "sync_api.Browser", local: Console) -> None:
    """A record that is written while the page is open goes to the top of the table."""
    with tab(browser) as page:
        page.goto(local.at("/feed"))
        page.get_by_role("button", name="Live").wait_for()
        local.write([judged(700, "just arrived", 0.1)])
        page.get_by_text("just arrived").wait_for()
        assert page.locator("#rows tr").first.inner_text().find("just arrived") >= 0
        page.get_by_role("button", name="Live").click()
        assert page.get_by_role("button", name="Paused").get_attribute("aria-pressed") == "false"


def test_the_queue_by_keyboard(browser: "sync_api.Browser", tmp_path: Path) -> None:
    """Keys label, undo, skip, go back and show the sheet of keys; they are dead while somebody types."""
    address = sqlite(tmp_path)
    fill(address, [judged(number, f"text number {number}", 0.95) for number in range(9, 0, -1)])
    with console(address) as running, tab(browser) as page:
        page.goto(running.at("/queue?action=block"))
        first = page.url.split("/queue/")[1].split("?")[0]
        page.keyboard.press("?")
        assert page.get_by_role("dialog").is_visible()
        page.keyboard.press("Escape")
        page.get_by_label("Note").fill("f c n")
        assert first in page.url
        page.get_by_label("Note").press("Tab")
        page.keyboard.press("1")
        page.keyboard.press("f")
        page.wait_for_url(re.compile("did="))
        assert labels_of(address, first) == [("false_positive", "local", "violence_hate")]
        assert "1 of 9 labelled" in page.locator(".progress").inner_text()
        second = page.url
        page.keyboard.press("u")
        page.wait_for_url(re.compile(f"/queue/{first}"))
        assert [kind for kind, *_ in labels_of(address, first)] == ["false_positive", "none"]
        page.keyboard.press("j")
        page.wait_for_url(lambda url: first not in url)
        assert page.url.split("?")[0] == second.split("?")[0]
        page.keyboard.press("k")
        page.wait_for_url(re.compile(f"/queue/{first}"))


def test_excluding_by_keyboard(browser: "sync_api.Browser", tmp_path: Path) -> None:
    """`e` excludes the text of a record and goes on, `u` ends it; a passed record needs a category first."""
    address = sqlite(tmp_path)
    fill(address, [judged(1, "passed text", 0.01), *(judged(n, f"bomb {n}", 0.95) for n in (3, 2))])
    with console(address) as running, tab(browser) as page:
        page.goto(running.at("/queue"))
        first = page.url.split("/queue/")[1].split("?")[0]
        page.keyboard.press("2")
        page.keyboard.press("e")
        page.wait_for_url(re.compile("excluded="))
        assert [(one.category, one.record) for one in exclusions_of(address)] == [("sexual_content", first)]
        assert "excluded for sexual_content until" in page.get_by_role("status").first.inner_text()
        page.keyboard.press("u")
        page.wait_for_url(re.compile(f"/queue/{first}"))
        assert exclusions_of(address) == []
        assert [kind for kind, *_ in labels_of(address, first)] == ["false_positive", "none"]
        page.goto(running.at(f"/queue/{name_of(1)}"))
        page.keyboard.press("e")
        assert "choose the category" in page.locator("#said").inner_text()
        page.keyboard.press("1")
        page.keyboard.press("e")
        page.wait_for_url(re.compile("excluded="))
        assert [(one.category, one.record) for one in exclusions_of(address)] == [("violence_hate", name_of(1))]
        page.goto(running.at("/exclusions"))
        page.get_by_role("button", name=re.compile("End the exclusion")).click()
        page.get_by_text("No exclusion is in force").wait_for()


def test_the_last_label_of_the_queue_can_be_undone(browser: "sync_api.Browser", tmp_path: Path) -> None:
    """At the end of the queue the keys for undo and for the previous record still work."""
    address = sqlite(tmp_path)
    fill(address, [judged(1, "bomb", 0.95)])
    with console(address) as running, tab(browser) as page:
        page.goto(running.at("/queue"))
        page.keyboard.press("f")
        page.get_by_text("That was the end of the queue").wait_for()
        page.keyboard.press("k")
        page.wait_for_url(re.compile(f"/queue/{name_of(1)}"))
        page.keyboard.press("c")
        page.get_by_text("That was the end of the queue").wait_for()
        page.keyboard.press("u")
        page.wait_for_url(re.compile(f"/queue/{name_of(1)}"))
        assert [kind for kind, *_ in labels_of(address, name_of(1))] == ["false_positive", "correct", "none"]


def test_two_people_review_at_once(browser: "sync_api.Browser", tmp_path: Path) -> None:
    """Two people in two browsers, each with keys alone, label every record once, and see what the other has done."""
    address = sqlite(tmp_path)
    fill(address, [judged(number, f"text number {number}", 0.95) for number in range(8, 0, -1)])
    with console(address, KEYS) as running, tab(browser) as anna, tab(browser) as ben:
        for name, page in (("anna", anna), ("ben", ben)):
            page.goto(running.at("/queue"))
            page.keyboard.type(KEYS[name][1])
            page.keyboard.press("Enter")
            page.wait_for_url(re.compile("/queue/"))
        seen: list[str] = []
        for _ in range(4):
            for page in (anna, ben):
                before = page.url
                seen.append(before.split("/queue/")[1].split("?")[0])
                page.keyboard.press("c")
                page.wait_for_url(lambda url, before=before: url != before)
        assert len(set(seen)) == 8
        assert "8 of 8 labelled: anna 4, ben 4" in ben.locator(".progress").inner_text()
        assert {by for name in seen for _, by, _ in labels_of(address, name)} == {"anna", "ben"}


def test_a_slider_becomes_yaml(browser: "sync_api.Browser", local: Console) -> None:
    """Moving a threshold by keyboard shows the records that change, and YAML that can be copied."""
    with tab(browser) as page:
        page.goto(local.at("/workbench"))
        slider = page.get_by_label(re.compile("^block from, Violence and hate$"))
        slider.focus()
        for _ in range(3):
            page.keyboard.press("PageDown")
        page.locator("#yaml").wait_for()
        assert re.search(r"violence_hate: \{flag: 0\.3, block: 0\.[1-5]", page.locator("#yaml").inner_text())
        page.wait_for_url(re.compile("t%3Auser%3Aviolence_hate%3Ablock="))
        page.reload()
        assert page.locator("#yaml").is_visible()


def test_a_hostile_record_does_nothing(browser: "sync_api.Browser", local: Console) -> None:
    """Markup and scripts of a text neither run nor become elements."""
    with tab(browser) as page:
        for path in (
            "/feed",
            f"/records/{name_of(0)}",
            f"/queue/{name_of(0)}",
            "/workbench?t:user:violence_hate:block=0.99",
        ):
            page.goto(local.at(path))
            assert "taken" not in page.title()
            assert page.locator("main script, main img, main b").count() == 0
        page.goto(local.at(f"/records/{name_of(0)}"))
        assert "<script>" in page.locator("#judged .said").inner_text()
        assert page.locator("#judged mark").count() == 1


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (NARROW, "dark")], ids=["wide", "narrow"])
def test_pages_are_accessible_and_fit(
    browser: "sync_api.Browser", local: Console, path: str, size: tuple[int, int], scheme: str
) -> None:
    """axe finds nothing serious, contrast included, and no page scrolls sideways."""
    with tab(browser, size, scheme) as page:
        page.goto(local.at(path))
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        # Through the debugger, because the page's policy allows no script from elsewhere.
        page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'best-practice']})")
        serious = [
            (rule["id"], [node["html"][:200] for node in rule["nodes"][:3]])
            for rule in found["violations"]
            if rule["impact"] in ("serious", "critical")
        ]
        assert serious == []
