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
from tests.console.test_opinions import reviewed
from tests.console.test_saving import FILE, Running, content
from tests.console.test_saving import page as file_page
from tests.guards.chat_kit import ChatServer

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="left out: the browser tests of the reviewer's page; they need playwright"
)
# What a page shows is asked again until it is so: scripts may still be at work.
expect = sync_api.expect
expect.set_options(timeout=60_000)
CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parent / "axe" / "axe.min.js"
WIDE, NARROW = (1280, 900), (390, 844)
PAGES = (
    "/feed",
    f"/records/{name_of(3)}",
    "/queue",
    "/workbench?t:user:violence_hate:block=0.2&t:user:guns:rewrite=0.4&t:user:guns:flag=2",
    "/overview?over=24h",
    "/try",
    "/store?client=c11e47aa",
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
def tab(
    browser: "sync_api.Browser", size: tuple[int, int] = WIDE, scheme: str = "light", expected: str = ""
) -> Iterator["sync_api.Page"]:
    """A page of a fresh browser profile, in which no script may fail and nothing may be blocked.

    `expected` is a part of an error that the browser reports because the server means it.
    """
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    context.set_default_timeout(60_000)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    yield page
    context.close()
    assert [problem for problem in problems if not (expected and expected in problem)] == []


def sign_in(page: "sync_api.Page", key: str) -> None:
    """Sign in by keyboard. The browser moves the focus to the field only when it draws the page, after its load."""
    page.locator("#key:focus").wait_for()
    page.keyboard.type(key)
    with page.expect_event("load"):
        page.keyboard.press("Enter")


def enter(button: "sync_api.Locator") -> None:
    """Press Enter on a button that leads to another page, and wait until the scripts of that page have run."""
    with button.page.expect_event("load"):
        button.press("Enter")


def test_signing_in(browser: "sync_api.Browser", tmp_path: Path) -> None:
    """Somebody without a session signs in by keyboard and arrives where they wanted to go."""
    address = sqlite(tmp_path)
    fill(address, many(6))
    with console(address, KEYS) as running, tab(browser) as page:
        page.goto(running.at("/overview?over=7d"))
        assert page.url.startswith(running.at("/sign-in"))
        sign_in(page, KEYS["anna"][1])
        page.wait_for_url(running.at("/overview?over=7d"))
        expect(page.get_by_text("anna")).to_be_visible()
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
        expect(page.locator("#rows tr").first).to_contain_text("just arrived", use_inner_text=True)
        page.get_by_role("button", name="Live").click()
        expect(page.get_by_role("button", name="Paused")).to_have_attribute("aria-pressed", "false")


def test_the_queue_by_keyboard(browser: "sync_api.Browser", tmp_path: Path) -> None:
    """Keys label, undo, skip, go back and show the sheet of keys; they are dead while somebody types."""
    address = sqlite(tmp_path)
    fill(address, [judged(number, f"text number {number}", 0.95) for number in range(9, 0, -1)])
    with console(address) as running, tab(browser) as page:
        page.goto(running.at("/queue?action=block"))
        first = page.url.split("/queue/")[1].split("?")[0]
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        page.get_by_label("Note").fill("f c n")
        assert first in page.url
        page.get_by_label("Note").press("Tab")
        page.keyboard.press("1")
        page.keyboard.press("f")
        page.wait_for_url(re.compile("did="))
        assert labels_of(address, first) == [("false_positive", "local", "violence_hate")]
        expect(page.locator(".progress")).to_contain_text("1 of 9 labelled", use_inner_text=True)
        second = page.url
        page.keyboard.press("u")
        page.wait_for_url(re.compile(f"/queue/{first}"))
        assert [kind for kind, *_ in labels_of(address, first)] == ["false_positive", "none"]
        page.keyboard.press("j")
        page.wait_for_url(lambda url: first not in url)
        assert page.url.split("?")[0] == second.split("?")[0]
        page.keyboard.press("k")
        page.wait_for_url(re.compile(f"/queue/{first}"))


def test_records_of_one_text_are_labelled_together(browser: "sync_api.Browser", tmp_path: Path) -> None:
    """They are one item: `f` labels all, `u` takes all back, and after `s` only the one that is shown is labelled."""
    address = sqlite(tmp_path)
    copies = [judged(number, "buy cheap pills", 0.95) for number in range(8, 3, -1)]
    fill(address, [judged(9, "an older text", 0.95), *copies, judged(2, "a newer text", 0.95)])
    with console(address) as running, tab(browser) as page:
        page.goto(running.at("/queue"))
        page.keyboard.press("j")
        page.wait_for_url(re.compile(name_of(4)))
        box = page.get_by_role("checkbox", name="and 4 more with the same text")
        expect(box).to_be_checked()
        page.keyboard.press("f")
        page.wait_for_url(re.compile("did="))
        expect(page.get_by_role("status").first).to_contain_text(
            "and 4 more with the same text are labelled", use_inner_text=True
        )
        assert name_of(9) in page.url
        expect(page.locator(".progress")).to_contain_text("5 of 7 labelled", use_inner_text=True)
        page.keyboard.press("u")
        page.wait_for_url(re.compile(f"/queue/{name_of(4)}"))
        expect(page.locator(".progress")).to_contain_text("0 of 7 labelled", use_inner_text=True)
        page.keyboard.press("s")
        expect(box).not_to_be_checked()
        page.keyboard.press("c")
        page.wait_for_url(re.compile("did="))
        assert name_of(5) in page.url
        kinds = [[kind for kind, *_ in labels_of(address, name_of(number))] for number in (4, 5, 8, 9)]
        assert kinds == [["false_positive", "none", "correct"], *[["false_positive", "none"]] * 2, []]
        page.goto(running.at(f"/records/{name_of(6)}"))
        expect(page.get_by_role("checkbox", name="and 4 more with the same text")).not_to_be_checked()
        expect(page.locator("section[aria-labelledby=h-text]")).to_contain_text(
            "4 other records have exactly this text.", use_inner_text=True
        )


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
        expect(page.get_by_role("status").first).to_contain_text(
            "excluded for sexual_content until", use_inner_text=True
        )
        page.keyboard.press("u")
        page.wait_for_url(re.compile(f"/queue/{first}"))
        assert exclusions_of(address) == []
        assert [kind for kind, *_ in labels_of(address, first)] == ["false_positive", "none"]
        page.goto(running.at(f"/queue/{name_of(1)}"))
        page.keyboard.press("e")
        expect(page.locator("#said")).to_contain_text("choose the category", use_inner_text=True)
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
        with page.expect_event("load"):
            page.keyboard.press("f")
        expect(page.get_by_text("That was the end of the queue")).to_be_visible()
        page.keyboard.press("k")
        page.wait_for_url(re.compile(f"/queue/{name_of(1)}"))
        with page.expect_event("load"):
            page.keyboard.press("c")
        expect(page.get_by_text("That was the end of the queue")).to_be_visible()
        page.keyboard.press("u")
        page.wait_for_url(re.compile(f"/queue/{name_of(1)}"))
        assert [kind for kind, *_ in labels_of(address, name_of(1))] == ["false_positive", "correct", "false_positive"]


def test_two_people_review_at_once(browser: "sync_api.Browser", tmp_path: Path) -> None:
    """Two people in two browsers, each with keys alone, label every record once, and see what the other has done."""
    address = sqlite(tmp_path)
    fill(address, [judged(number, f"text number {number}", 0.95) for number in range(8, 0, -1)])
    with console(address, KEYS) as running, tab(browser) as anna, tab(browser) as ben:
        for name, page in (("anna", anna), ("ben", ben)):
            page.goto(running.at("/queue"))
            sign_in(page, KEYS[name][1])
            page.wait_for_url(re.compile("/queue/"))
        seen: list[str] = []
        for _ in range(4):
            for page in (anna, ben):
                before = page.url
                seen.append(before.split("/queue/")[1].split("?")[0])
                page.keyboard.press("c")
                page.wait_for_url(lambda url, before=before: url != before)
        assert len(set(seen)) == 8
        expect(ben.locator(".progress")).to_contain_text("8 of 8 labelled: anna 4, ben 4", use_inner_text=True)
        assert {by for name in seen for _, by, _ in labels_of(address, name)} == {"anna", "ben"}


def test_a_slider_becomes_yaml(browser: "sync_api.Browser", local: Console) -> None:
    """Moving a threshold by keyboard shows the records that change, and YAML that can be copied."""
    with tab(browser) as page:
        page.goto(local.at("/workbench"))
        slider = page.get_by_label("block from, Violence and hate, as a slider")
        slider.focus()
        for _ in range(3):
            page.keyboard.press("PageDown")
        page.locator("#yaml").wait_for()
        assert re.search(r"violence_hate: \{flag: 0\.3, block: 0\.[1-5]", page.locator("#yaml").inner_text())
        page.wait_for_url(re.compile("t%3Auser%3Aviolence_hate%3Ablock="))
        page.reload()
        expect(page.locator("#yaml")).to_be_visible()


def test_rules_come_and_go_by_keyboard(browser: "sync_api.Browser", local: Console) -> None:
    """A category gets a rule, a rewrite and a condition, and loses them; the focus is where the change was."""
    with tab(browser) as page:
        page.goto(local.at("/workbench"))
        guns = page.get_by_role("group", name=re.compile("^Guns"))
        expect(guns).to_contain_text("rules for every other category apply", use_inner_text=True)
        enter(guns.get_by_role("button", name="Add to Guns: block"))
        expect(page.locator("#yaml")).to_contain_text("guns: {block: 0.5}", use_inner_text=True)
        field = guns.get_by_label("block from, Guns", exact=True)
        field.and_(page.locator(":focus")).wait_for()
        enter(guns.get_by_role("button", name="Add to Guns: rewrite", exact=True))
        guns.get_by_label("by which rewrite").select_option("redact")
        page.get_by_text("how: redact", exact=False).first.wait_for()
        enter(guns.get_by_role("button", name="Add to Guns: condition on P(unsafe)"))
        expect(guns.get_by_label("needs P(unsafe) from, Guns, as a slider")).to_be_visible()
        text = "guns: {rewrite: {at: 0.25, how: redact}, block: 0.5, with_unsafe: 0.5}"
        expect(page.locator("#yaml")).to_contain_text(text, use_inner_text=True)
        page.get_by_label("Side").select_option("replies")
        page.wait_for_url(re.compile("at=assistant"))
        expect(page.locator("#yaml")).to_contain_text(text, use_inner_text=True)  # a change of the other side stays
        page.go_back()
        enter(guns.get_by_role("button", name="Remove: rewrite from, Guns"))
        expect(page.locator("#yaml")).not_to_contain_text("redact", use_inner_text=True)
        enter(guns.get_by_role("button", name="Undo the changes of Guns"))
        expect(page.get_by_text("Move a threshold to see")).to_be_visible()


def test_a_mistake_stands_beside_its_field(browser: "sync_api.Browser", local: Console) -> None:
    """No number, a number that is too high, and a rule that can never act are named where they are."""
    with tab(browser) as page:
        page.goto(local.at("/workbench"))
        panel = page.get_by_role("group", name=re.compile("^Violence and hate"))
        flag = panel.get_by_label("flag from, Violence and hate", exact=True)
        for value, words in (
            ("", "Write a number from 0 to 1"),
            ("1.5", "1.5 is not between 0 and 1"),
            ("0.8", "is unreachable, because block applies from 0.6; lower it"),
        ):
            flag.fill(value)
            panel.get_by_text(words).wait_for()
            expect(flag).to_have_attribute("aria-invalid", "true")
            described = page.locator(f"[id='{flag.get_attribute('aria-describedby')}']")
            expect(described).to_contain_text(words, use_inner_text=True)
        page.reload()
        expect(panel.get_by_text("is unreachable")).to_be_visible()
        flag.fill("0.2")
        page.locator("#mistakes").wait_for(state="detached")
        expect(flag).not_to_have_attribute("aria-invalid", re.compile(".*"))


def test_an_admin_saves_what_the_page_shows(browser: "sync_api.Browser", tmp_path: Path) -> None:
    """By keyboard: a slider, the button, the file; a change of somebody else in between is kept, and said."""
    path = tmp_path / "guardproxy.yaml"
    path.write_text(FILE)
    running = Running(path)
    with file_page(running) as served, tab(browser, expected="409 (Conflict)") as page:
        page.goto(served.at("/workbench"))
        sign_in(page, KEYS["olga"][1])
        page.get_by_label("block from, Violence and hate, as a slider").press("PageDown")
        enter(page.get_by_role("button", name="Save in guardproxy.yaml"))
        expect(page.get_by_text("of the policies now decides")).to_be_visible()
        assert "block: 0.5" in content(path)
        expect(page.locator(".notice")).to_contain_text(running.policies.current.version, use_inner_text=True)
        path.write_text(path.read_text().replace("block: 0.7", "block: 0.8"))
        before = path.read_text()
        page.get_by_label("block from, Violence and hate, as a slider").press("PageDown")
        enter(page.get_by_role("button", name="Save in guardproxy.yaml"))
        expect(page.get_by_text("Nothing was saved")).to_be_visible()
        expect(page.locator("#refused")).to_contain_text("somebody changed it", use_inner_text=True)
        page.locator("#refused:focus").wait_for()
        assert path.read_text() == before
        problems = page.evaluate("document.querySelectorAll('#yaml').length")
        assert problems == 1  # what was tried is still there


def test_a_spike_leads_to_its_records(browser: "sync_api.Browser", local: Console) -> None:
    """A column of a client's chart is a link to the records of that client and time; so is a point of the times."""
    with tab(browser) as page:
        page.goto(local.at("/overview?over=24h"))
        page.get_by_role("link", name="client", exact=True).click()
        page.wait_for_url(re.compile("by=client"))
        expect(page.get_by_role("heading", name="Over time by client")).to_be_visible()
        page.locator("section[aria-labelledby=h-trends] svg a").first.click()
        page.wait_for_url(re.compile("/feed.*client=c11e47aa"))
        assert "until=" in page.url
        assert page.locator("#rows tr").count() > 0
        page.go_back()
        page.locator("section[aria-labelledby=h-latency] svg a").first.click()
        page.wait_for_url(re.compile("/feed.*until="))


def test_a_text_is_tried_by_keyboard(browser: "sync_api.Browser", local: Console) -> None:
    """The decisions of every policy, the probabilities, and the forms with their windows appear."""
    with tab(browser) as page:
        page.goto(local.at("/try"))
        page.get_by_label("Text", exact=True).fill("a bomb =")
        enter(page.get_by_role("button", name="Judge"))
        expect(page.get_by_role("heading", name="Views and windows")).to_be_visible()
        expect(page.get_by_role("row", name=re.compile("^strict block"))).to_be_visible()
        expect(page.locator(".read").first).to_contain_text("in 1 window", use_inner_text=True)
        expect(page.locator(".views")).to_contain_text("Not read under strict", use_inner_text=True)


def test_a_second_opinion_by_keyboard(browser: "sync_api.Browser", tmp_path: Path) -> None:
    """The button leads to the record, with what the other guard says and why."""
    with reviewed(tmp_path, ChatServer()) as running, tab(browser) as page:
        page.goto(running.at(f"/records/{name_of(1)}"))
        sign_in(page, KEYS["anna"][1])
        enter(page.get_by_role("button", name="Ask for a second opinion"))
        listed = page.locator("#opinions .opinions li")
        expect(listed).to_contain_text("unsafe: guns_illegal_weapons", use_inner_text=True)
        expect(listed.locator("q")).to_have_text("It asks for a bomb.")
        page.get_by_role("button", name="Ask for a second opinion").click()
        expect(listed).to_have_count(2)


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
        expect(page.locator("#judged .said")).to_contain_text("<script>", use_inner_text=True)
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
