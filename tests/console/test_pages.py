"""The reviewer's page over HTTP: who may do what, what every answer carries, and that texts stay texts."""

import csv
import io
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from guardproxy.app import catalogue
from guardproxy.observe.masking import short_hash, text_hash
from guardproxy.reviews import Label
from guardproxy.settings import load_text
from guardproxy.types import Coverage, Finding, ReplyInfo, Verdict
from tests.console.kit import (
    FORMULA,
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

PAGES = ("/feed", "/queue", "/workbench", "/overview", "/try", "/exclusions", "/store", f"/records/{name_of(3)}")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A page without keys, with 60 records of which some have a label."""
    address = sqlite(tmp_path_factory.mktemp("local"))
    given = [Label(name_of(number), "correct", "anna", time.time()) for number in range(10, 20)]
    fill(address, many(60), given)
    with console(address) as running:
        yield running


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A page with four people."""
    address = sqlite(tmp_path_factory.mktemp("keyed"))
    fill(address, many(12))
    with console(address, KEYS) as running:
        yield running


@contextmanager
def client(running: Console, name: str = "") -> Iterator[httpx.Client]:
    """A client of the page; signed in if it has a name."""
    with httpx.Client(base_url=running.url, follow_redirects=True, timeout=60) as made:
        if name:
            page = made.get("/guardproxy/sign-in")
            answer = made.post("/guardproxy/sign-in", data={"key": KEYS[name][1], "token": token(page)})
            assert answer.url.path == "/guardproxy/feed"
        yield made


def token(page: httpx.Response) -> str:
    """The token of the forms of a page."""
    found = re.search(r'name="token" value="([^"]+)"', page.text)
    assert found
    return found[1]


def test_every_page_answers_and_keeps_to_itself(local: Console) -> None:
    """Each page is HTML under a policy that allows no inline script or style, and no address of elsewhere."""
    with client(local) as browser:
        for path in PAGES:
            page = browser.get(local.at(path))
            assert page.status_code == 200, path
            policy = page.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert page.headers["cache-control"] == "no-store"
            assert re.findall(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", page.text) == [], path
            assert re.findall(r'(?:src|href|action)="(?!/guardproxy/|#)', page.text) == [], path


def test_the_cookie_is_for_no_script(local: Console) -> None:
    """The session's cookie is HttpOnly and SameSite=strict, ends, and belongs to the page's paths only."""
    cookie = httpx.get(local.at("/feed")).headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict", "max-age=3600", "path=/guardproxy"))


@pytest.mark.parametrize("path", [*PAGES, "/live?last=1"])
def test_nothing_is_shown_before_the_sign_in(keyed: Console, path: str) -> None:
    """Without a session each page leads to the sign-in; JSON and CSV are refused."""
    answer = httpx.get(keyed.at(path))
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/guardproxy/sign-in?next=%2Fguardproxy%2F")
    for form in ("json", "csv"):
        if path in ("/feed", "/overview", "/workbench", "/queue"):
            assert httpx.get(keyed.at(f"{path}.{form}")).status_code == 401


def test_a_wrong_key_is_refused(keyed: Console) -> None:
    """A wrong key gets no session and is told so after a second."""
    with client(keyed) as browser:
        started = time.monotonic()
        sent = {"key": "x" * 20, "token": token(browser.get("/guardproxy/sign-in"))}
        answer = browser.post("/guardproxy/sign-in", data=sent)
        assert time.monotonic() - started >= 1
        assert answer.status_code == 403
        assert "No one has this key" in answer.text
        assert browser.get("/guardproxy/feed").url.path == "/guardproxy/sign-in"


@pytest.mark.parametrize("wanted", ["https://evil.test/", "//evil.test", "/guardproxy/\\evil", "/v1/models"])
def test_the_sign_in_leads_to_the_page_only(keyed: Console, wanted: str) -> None:
    """An address of elsewhere in `next` is ignored."""
    with client(keyed) as browser:
        page = browser.get("/guardproxy/sign-in", params={"next": wanted})
        data = {"key": KEYS["rita"][1], "token": token(page)}
        browser.follow_redirects = False
        answer = browser.post("/guardproxy/sign-in", params={"next": wanted}, data=data)
        assert answer.headers["location"] == "/guardproxy/feed"


def test_roles(keyed: Console) -> None:
    """`read` sees, `label` labels, `admin` erases; nobody does more."""
    record = f"/guardproxy/records/{name_of(4)}"
    with client(keyed, "rita") as rita:
        page = rita.get(record)
        assert page.status_code == 200
        assert "False positive" not in page.text
        assert rita.get("/guardproxy/queue").status_code == 403
        assert rita.post(f"{record}/label", data={"kind": "correct", "token": token(page)}).status_code == 403
    with client(keyed, "anna") as anna:
        page = anna.get(record)
        sent = {"kind": "correct", "note": "fine", "category": "violence_hate", "token": token(page)}
        assert anna.post(f"{record}/label", data=sent).status_code == 200
        assert anna.post(f"{record}/erase", data={"sure": "yes", "token": token(page)}).status_code == 403
    assert labels_of(keyed.address, name_of(4)) == [("correct", "anna", "violence_hate")]
    with client(keyed, "olga") as olga:
        page = olga.get(record)
        assert olga.post(f"{record}/erase", data={"token": token(page)}).status_code == 400
        assert olga.post(f"{record}/erase", data={"sure": "yes", "token": token(page)}).status_code == 200
        assert olga.get(record).status_code == 404


def test_a_form_needs_the_token_of_its_session(keyed: Console) -> None:
    """Without a token, with a forged one, and with that of another session, nothing is stored."""
    record = f"/guardproxy/records/{name_of(9)}"
    with client(keyed, "anna") as anna, client(keyed, "ben") as ben:
        others = token(ben.get(record))
        for sent in ({}, {"token": "forged"}, {"token": others}):
            assert anna.post(f"{record}/label", data={"kind": "correct", **sent}).status_code == 403
    assert labels_of(keyed.address, name_of(9)) == []


def test_signing_out_ends_the_session(keyed: Console) -> None:
    """After the sign-out the browser has no session."""
    with client(keyed, "anna") as anna:
        anna.post("/guardproxy/sign-out", data={"token": token(anna.get("/guardproxy/feed"))})
        assert anna.get("/guardproxy/feed").url.path == "/guardproxy/sign-in"


@pytest.mark.parametrize(
    "path", ["/feed", f"/records/{name_of(3)}", "/queue", "/workbench", "/overview", "/exclusions"]
)
def test_every_page_is_also_data(local: Console, path: str) -> None:
    """JSON parses, and CSV has a header and rows of its length."""
    data = httpx.get(local.at(f"{path}.json")).json()
    assert data
    table = httpx.get(local.at(f"{path}.csv"))
    assert table.headers["content-disposition"].startswith("attachment")
    rows = list(csv.reader(io.StringIO(table.text)))
    assert rows
    assert {len(row) for row in rows} == {len(rows[0])}


def test_the_feed_pages_by_number_and_filters(local: Console) -> None:
    """Older pages follow without a gap, facets count, and a filter holds for the page and its facets."""
    first = httpx.get(local.at("/feed.json")).json()
    second = httpx.get(local.url + first["older"].replace("/feed?", "/feed.json?")).json()
    numbers = [row["number"] for row in (*first["records"], *second["records"])]
    assert numbers == list(range(60, 0, -1))
    assert second["older"] is None
    blocked = httpx.get(local.at("/feed.json"), params={"action": "block", "text": "bomb"}).json()
    assert blocked["records"]
    assert all(row["decision"]["action"] == "block" and "bomb" in row["text"] for row in blocked["records"])
    assert sum(blocked["facets"]["action"].get("block", {}).values()) == blocked["counted"] == len(blocked["records"])
    assert first["facets"]["label"]["correct"]


def test_a_mistake_in_the_address_is_named(local: Console) -> None:
    """An unknown key, a bad value and an unknown page are named in the form that was asked for."""
    assert "is no filter" in httpx.get(local.at("/feed?colour=red")).text
    answer = httpx.get(local.at("/feed.json?action=maybe"))
    assert answer.status_code == 400
    assert "maybe" in answer.json()["error"]
    assert httpx.get(local.at("/feed?before=x")).status_code == 400
    assert httpx.get(local.at("/workbench?t:user:no_category:block=0.2")).status_code == 400
    assert "There is no such page" in httpx.get(local.at("/nothing")).text
    assert httpx.get(local.at("/records/unknown")).status_code == 404


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    """Markup is escaped, hidden characters have a name, and a formula does not begin a cell."""
    address = sqlite(tmp_path)
    fill(address, [judged(1, HOSTILE, 0.95), judged(2, FORMULA, 0.95, model="<b>m</b>", session="'\"><i>")])
    with console(address) as running:
        for path in ("/feed", f"/records/{name_of(1)}", f"/queue/{name_of(1)}", "/workbench", f"/records/{name_of(2)}"):
            page = httpx.get(running.at(path)).text
            assert "<script>document" not in page
            assert "<img src=x" not in page
            assert "<i>" not in page
            assert not re.search("[\x00-\x08\x0e-\x1f\u202e\x7f]", page)
        assert "U+202E" in httpx.get(running.at(f"/records/{name_of(1)}")).text
        table = httpx.get(running.at("/feed.csv")).text
        assert not re.search("[\x00-\x08\x0e-\x1f\u202e]", table)
        cells = [cell for row in csv.reader(io.StringIO(table)) for cell in row]
        assert f"'{FORMULA}" in cells
        assert json.loads(httpx.get(running.at(f"/records/{name_of(1)}.json")).text)["text"] == HOSTILE


def test_steered_turns_and_further_replies_say_so(tmp_path: Path) -> None:
    """A reviewer sees that the model has read a text, and which of several replies a record is of."""
    steered = judged(901, "I want to end it", 0.5, outcome="steer", request_id="several")
    again = judged(902, "Sure.", 0.1, reply=True, request_id="several")
    address = sqlite(tmp_path)
    fill(address, [steered, replace(again, reply=ReplyInfo(model="m", attempt=2))])
    with console(address) as running:
        assert "with an instruction for the model" in httpx.get(running.at(f"/records/{name_of(901)}")).text
        assert ", attempt 2" in httpx.get(running.at(f"/records/{name_of(902)}")).text


def test_new_records_arrive_as_events(local: Console) -> None:
    """A stream begins behind the number that it is given, and sends the rows of what is written."""
    local.write([judged(900, "brand new <b>text</b>", 0.1)])
    with httpx.stream("GET", local.at("/live?last=60"), timeout=60) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = []
        for line in stream.iter_lines():
            lines.append(line)
            if "brand new" in line:
                break
    assert "id: 71" in lines  # the labels have numbers as well
    assert "brand new &lt;b&gt;text" in lines[-1]


def test_the_queue_gives_a_record_to_one_person(keyed: Console) -> None:
    """Two people get different records; labels carry names; undo withdraws; what is labelled leaves the queue."""
    with client(keyed, "anna") as anna, client(keyed, "ben") as ben:
        first, second = anna.get("/guardproxy/queue"), ben.get("/guardproxy/queue")
        assert first.url.path != second.url.path
        labelled = anna.post(f"{first.url.path}/label", data={"kind": "false_positive", "token": token(first)})
        name = first.url.path.rpartition("/")[2]
        assert labels_of(keyed.address, name) == [("false_positive", "anna", "")]
        assert labelled.url.path not in (first.url.path, second.url.path)
        assert "is labelled <strong>false positive" in labelled.text
        back = anna.post(f"/guardproxy/queue/{name}/undo", data={"token": token(labelled)})
        assert back.url.path == first.url.path
        assert [kind for kind, *_ in labels_of(keyed.address, name)] == ["false_positive", "none"]
        seen = ben.get(first.url.path)
        assert "Somebody else is looking at this record" in seen.text


def test_a_text_is_excluded(tmp_path: Path) -> None:
    """`label` excludes a text in their own name for what was reached; the form decides otherwise; undo ends it."""
    address = sqlite(tmp_path)
    fill(address, [judged(number, "sex bomb", 0.95) for number in range(4, 0, -1)])
    with console(address, KEYS) as running, client(running, "anna") as anna, client(running, "rita") as rita:
        record = f"/guardproxy/records/{name_of(2)}"
        page = rita.get(record)
        assert "Exclude this text" not in page.text
        assert rita.post(f"{record}/exclude", data={"token": token(page)}).status_code == 403
        first = anna.get("/guardproxy/queue")
        name = first.url.path.rpartition("/")[2]
        done = anna.post(f"{first.url.path}/exclude", data={"token": token(first)})
        made = exclusions_of(address)
        assert {one.category for one in made} == {"violence_hate", "sexual_content", "unsafe"}
        assert {(one.by, one.text, one.record) for one in made} == {("anna", text_hash("sex bomb"), name)}
        assert all(abs(one.until - time.time() - 30 * 86_400) < 60 for one in made)
        assert labels_of(address, name) == [("false_positive", "anna", "")]
        assert "its text is excluded for <strong>" in done.text
        anna.post(f"{first.url.path}/exclude", data={"token": token(first)})
        assert len(exclusions_of(address)) == 3  # a second press makes no more
        undo = re.search(r'action="([^"]*undo[^"]*)"', done.text)
        assert undo
        back = anna.post(undo[1].replace("&amp;", "&"), data={"token": token(done)})
        assert back.url.path == first.url.path
        assert exclusions_of(address) == []
        sent = {"category": "violence_hate", "until": "7d", "note": "a song; key sk-abcdefghijklmnopqrstuvwx1234"}
        page = anna.post(f"{record}/exclude", data={**sent, "token": token(back)})
        (one,) = exclusions_of(address)
        assert (one.category, one.reason) == ("violence_hate", "a song; key [api key]")
        assert abs(one.until - time.time() - 7 * 86_400) < 60
        for path in ("/guardproxy/exclusions", record):
            assert "a song; key" in anna.get(path).text
        page = anna.post(f"/guardproxy/exclusions/{one.id}/end", data={"record": name_of(2), "token": token(page)})
        assert page.url.path == record
        assert exclusions_of(address) == []
        assert anna.get("/guardproxy/exclusions.json").json()["exclusions"] == []
        assert anna.get("/guardproxy/exclusions.json?ended=yes").json()["total"] == 4


def test_what_cannot_be_excluded(tmp_path: Path) -> None:
    """A masked text, an unknown category, and a text in which nothing was reached: the page says so."""
    address = sqlite(tmp_path)
    fill(address, [judged(1, "call [phone]", 0.95, exact=False), judged(2, "fine", 0.01), judged(3, "bad", 0.95)])
    with console(address) as running, client(running) as browser:
        sent = {"token": token(browser.get(f"/guardproxy/queue/{name_of(1)}"))}
        for number, fields, problem in (
            (1, {}, "its text is masked"),
            (2, {}, "reached no threshold"),
            (3, {"category": "no_such"}, "has no category"),
            (3, {"until": "soon"}, "is no duration"),
            (3, {"note": "x" * 10_001}, "Nothing was excluded"),
        ):
            answer = browser.post(f"/guardproxy/records/{name_of(number)}/exclude", data={**sent, **fields})
            assert answer.status_code == 400
            assert problem in answer.text
        assert "audit exclude 1 --text-file FILE" in browser.get(f"/guardproxy/records/{name_of(1)}").text
        assert exclusions_of(address) == []
        browser.post(f"/guardproxy/records/{name_of(2)}/exclude", data={**sent, "category": "violence_hate"})
        assert [one.category for one in exclusions_of(address)] == ["violence_hate"]
        assert labels_of(address, name_of(2)) == [("correct", "local", "violence_hate")]


def test_filters_of_names_and_states(tmp_path: Path) -> None:
    """The box takes a name of which the store has the hash; facets count states; an unknown name is explained."""
    address = sqlite(tmp_path)
    hashed = short_hash(b"alice@example.com")
    fill(
        address,
        [
            judged(1, "one", 0.1, user=hashed, sampled=True),
            judged(2, "two", 0.1, complete=False, wire="ollama", session="\ud800"),
            judged(3, "three", 0.1, exclusion="0123456789ab", reply=True),
        ],
        [Label(name_of(3), "correct", "anna", time.time())],
    )
    with console(address) as running:
        for query, number in (
            ("user=alice%40example.com", 1),
            (f"user={hashed}", 1),
            ("sampled=true", 1),
            ("complete=false", 2),
            ("wire=ollama", 2),
            ("exclusion=any", 3),
            ("reviewer=anna", 3),
        ):
            found = httpx.get(running.at(f"/feed.json?{query}")).json()["records"]
            assert [row["text"] for row in found] == [["one", "two", "three"][number - 1]], query
        page = httpx.get(running.at("/feed")).text
        for link in ("sampled=true", "complete=false", "wire=ollama", "exclusion=any", "reviewer=anna"):
            assert f"?{link}" in page
        missing = httpx.get(running.at("/feed?user=alcie")).text
        assert f"No record has the user &#39;alcie&#39;, nor its hash {short_hash(b'alcie')}" in missing
        record = httpx.get(running.at(f"/records/{name_of(2)}")).text
        link = re.search(r'href="(/guardproxy/feed\?session=[^"]*)"', record)
        assert link
        assert "two" in httpx.get(running.url + link[1]).text


def test_a_very_long_text_is_shown_in_parts(tmp_path: Path) -> None:
    """Of a text of a million characters the beginning and the finding are shown, and how much is not."""
    address, text = sqlite(tmp_path), "\0" * 1000 + "word " * 200_000
    verdict = Verdict(0.95, (Finding("violence_hate", 0.95, span=(900_000, 900_009)),), "words")
    fill(address, [judged(1, text, 0.95, verdict=verdict)])
    with console(address) as running:
        page = httpx.get(running.at(f"/records/{name_of(1)}"), timeout=60).text
        assert len(page) < 400_000
        assert "characters are not shown" in page
        assert "<mark>" in page
        assert len(httpx.get(running.at(f"/records/{name_of(1)}.json"), timeout=60).json()["text"]) == len(text)


def test_the_queue_ends(keyed: Console) -> None:
    """A filter that nothing matches says so."""
    with client(keyed, "ben") as ben:
        assert "Nothing to review" in ben.get("/guardproxy/queue", params={"client": "nobody"}).text


def test_shadow_decisions_are_left_out_by_default(tmp_path: Path) -> None:
    """The feed, its counts, the overview and the queue agree; the address brings them in."""
    address = sqlite(tmp_path)
    fill(address, [judged(n, f"text {n}", 0.95, shadow=n % 3 == 0) for n in range(9, 0, -1)])
    with console(address) as running:

        def counted(path: str) -> tuple[int, int]:
            found = httpx.get(running.at(path)).json()
            return len(found["records"]), sum(found["facets"]["action"]["block"].values())

        assert counted("/feed.json") == (6, 6)
        assert counted("/feed.json?shadow=with") == (9, 9)
        assert counted("/feed.json?shadow=only") == (3, 3)
        assert counted("/feed.json?shadow=without") == (6, 6)
        assert len(httpx.get(running.at("/queue.json")).json()["records"]) == 6
        both = httpx.get(running.at(f"/records/{0xABC0 + 1:032x}"), follow_redirects=True)
        assert "shadow=with" in str(both.url)


def test_the_workbench_counts_what_changes(local: Console) -> None:
    """Without a change nothing changes; a lower threshold blocks more, and its YAML is a valid configuration."""
    same = httpx.get(local.at("/workbench.json")).json()
    changed = {name for name, number in same["changes"].items() if number and name != "unchanged"}
    assert changed == set()
    assert same["now"] == same["new"]
    lower = httpx.get(local.at("/workbench.json?t:user:violence_hate:block=0.1")).json()
    assert lower["changes"]["blocked"] > 0
    assert {row["after"] for row in lower["rows"]} == {"block"}
    assert "flag: 0.3, block: 0.1" in lower["yaml"]
    assert [mistake["rule"] for mistake in lower["mistakes"]] == ["user:violence_hate:flag"]
    text = 'version: 1\nupstream: {url: "http://127.0.0.1:9"}\n' + lower["yaml"].replace("flag: 0.3, ", "")
    rules = load_text(text, "new.yaml", {}, catalogue()).policies.policies["default"].user.by_category
    assert [rule.threshold for rule in rules["violence_hate"]] == [0.1]
    page = httpx.get(local.at("/workbench/result?t:user:violence_hate:block=0.1")).text
    assert "is unreachable, because block applies from 0.1; lower it" in page
    assert "newly blocked" in page


def test_the_workbench_says_what_each_rule_does(local: Console) -> None:
    """Every changed rule stands in a table from its number to the new one, with what this change alone would do."""
    query = "t:user:violence_hate:block=0.1&t:user:violence_hate:flag=off&t:assistant:*:rewrite=0.2"
    query += "&t:user:sexual_content:own=off"
    found = httpx.get(local.at(f"/workbench.json?{query}")).json()
    rows = {(one["side"], one["category"], one["rule"]): one for one in found["rule_changes"]}
    assert {key: (one["before"], one["after"]) for key, one in rows.items()} == {
        ("user", "violence_hate", "block"): ("0.6", "0.1"),
        ("user", "violence_hate", "flag"): ("0.3", None),
        ("assistant", "*", "rewrite"): ("0.5", "0.2"),
        ("user", "sexual_content", "all rules of its own"): ("block 0.5; needs P(unsafe) 0.4", None),
    }
    assert rows["user", "violence_hate", "block"]["newly"]["blocked"] > 0
    assert rows["user", "violence_hate", "flag"]["newly"]["blocked"] == 0
    assert rows["assistant", "*", "rewrite"]["newly"]["rewritten"] > 0
    one = httpx.get(local.at("/workbench.json?t:user:violence_hate:block=0.1")).json()
    alone, together = one["rule_changes"][0]["newly"], one["changes"]
    assert {**alone, "unchanged": 0} == {**together, "unchanged": 0}
    page = httpx.get(local.at("/workbench/result?t:assistant:*:rewrite=0.2")).text
    assert "Every other category<span" in page
    assert "replies: rewrite" in page


def test_a_text_is_tried(local: Console) -> None:
    """The text box shows the probabilities, each policy's decision, the views, and a failure of the guard."""
    with client(local) as browser:
        sent = {"token": token(browser.get("/guardproxy/try")), "side": "user"}
        page = browser.post("/guardproxy/try", data={**sent, "text": "a bomb = <i>x</i>"}).text
        assert "strict" in page
        assert "0.95" in page
        assert "decoded &lt;b&gt;text" in page
        assert "it is down" in browser.post("/guardproxy/try", data={**sent, "text": "fail"}).text
        assert browser.post("/guardproxy/try", data={**sent, "text": " "}).status_code == 400
        assert browser.post("/guardproxy/try", data={**sent, "text": "x" * 20_001}).status_code == 400


def test_the_overview_leads_to_the_records(local: Console) -> None:
    """The counts of the periods add up to the records of the time, and a link selects those of a period."""
    data = httpx.get(local.at("/overview.json?over=24h")).json()
    assert sum(sum(period["actions"].values()) for period in data["periods"]) >= 60
    assert len(data["periods"]) == 24
    page = httpx.get(local.at("/overview?over=24h")).text
    links = re.findall(r'<a href="([^"]*since=[^"]*until=[^"]*)" tabindex', page)
    assert links
    assert httpx.get(local.url + links[0].replace("&amp;", "&")).status_code == 200


def test_a_person_is_erased_and_the_chain_verifies(tmp_path: Path) -> None:
    """An admin counts what a filter selects, erases it, and sees that no row was changed behind the store's back."""
    address = sqlite(tmp_path)
    fill(address, [judged(number, f"text {number}", 0.9, user="ann" if number % 2 else "ben") for number in range(8)])
    with console(address, KEYS) as running, client(running, "olga") as olga:
        page = olga.get("/guardproxy/store?user=ann")
        assert "4 records match" in page.text
        sent = {"sure": "yes", "token": token(page)}
        assert olga.post("/guardproxy/store/erase", data=sent).status_code == 400  # it would be everything
        assert olga.post("/guardproxy/store/erase?user=ann", data={"token": token(page)}).status_code == 400
        assert "4 records erased" in olga.post("/guardproxy/store/erase?user=ann", data=sent).text
        assert len(olga.get("/guardproxy/feed.json").json()["records"]) == 4
        assert "No record matches" in olga.get("/guardproxy/store?user=ann").text
        verified = olga.post("/guardproxy/store/verify", data=sent)
        assert "9 rows, 4 of them erased: no row was edited, removed or moved" in verified.text
        with sqlite3.connect(tmp_path / "audit.sqlite3") as database:
            database.execute("UPDATE guardproxy_records SET route = 'other' WHERE seq = 1")
        verified = olga.post("/guardproxy/store/verify", data=sent)
        assert "row 1: its search column route does not match its content" in verified.text
        assert "no row was edited" not in verified.text


def test_only_an_admin_sees_the_store(keyed: Console) -> None:
    """Others have no link to the page and cannot use it."""
    for name in ("rita", "anna"):
        with client(keyed, name) as browser:
            page = browser.get("/guardproxy/feed")
            assert "/guardproxy/store" not in page.text
            assert browser.get("/guardproxy/store").status_code == 403
            for path in ("verify", "erase?user=ann"):
                sent = {"sure": "yes", "token": token(page)}
                assert browser.post(f"/guardproxy/store/{path}", data=sent).status_code == 403


def test_the_overview_names_who_is_blocked_most(tmp_path: Path) -> None:
    """Of many users, the one with the most blocked turns comes first, not the one with the most turns."""
    address = sqlite(tmp_path)
    busy = [judged(number, "fine", 0.01, user=f"user{number % 12}") for number in range(60)]
    fill(address, [*busy, *(judged(number, "bad", 0.95, user="mallory") for number in range(60, 63))])
    with console(address) as running, client(running) as browser:
        table = browser.get("/guardproxy/overview").text.split("By user, most blocked first")[1]
        assert "mallory" in table.split("</tr>")[1]


def test_a_record_leads_to_its_end_user(tmp_path: Path) -> None:
    """Other records are those of the end user; without one, those of the client, which may have many users."""
    address = sqlite(tmp_path)
    users = enumerate(("ann", "ben", "ann", "", ""))
    fill(address, [judged(number, f"text {number}", 0.1, user=user) for number, user in users])
    with console(address, KEYS) as running, client(running, "olga") as olga:
        of_ann = olga.get(f"/guardproxy/records/{name_of(0)}").text.split("More of this user")[1]
        assert "text 2" in of_ann
        assert "text 1" not in of_ann
        assert "/guardproxy/store?user=ann" in of_ann
        of_client = olga.get(f"/guardproxy/records/{name_of(3)}").text.split("More of this client")[1]
        assert all(f"text {number}" in of_client for number in (0, 1, 2, 4))
        assert "Erase everything of this end user" not in of_client


def test_a_record_says_what_its_images_were(tmp_path: Path) -> None:
    """The type, size and hash of one that was judged, and why another one was not; neither picture is kept."""
    told, path = "image/png, 640 x 480, sha256 9f86d081884c7d65", "messages[0].content[1].image_url.url"
    parts = (
        Coverage("messages[0].content[0].text", "user", "text", 4, judged=True),
        Coverage(path, "user", "image", 0, judged=True, note=told),
        Coverage(path.replace("[1]", "[2]"), "user", "opaque", 0, judged=False, why="opaque: image: <b>remote</b>"),
    )
    address = sqlite(tmp_path)
    fill(address, [judged(0, "look", 0.9, coverage=parts)])
    with console(address) as running, client(running) as browser:
        page = browser.get(f"/guardproxy/records/{name_of(0)}").text
    rows = [row for row in page.split("</tr>") if "image_url" in row]
    assert [("yes" in row, told in row) for row in rows] == [(True, True), (False, False)]
    assert "<strong>no</strong>: opaque: image: &lt;b&gt;remote" in rows[1]
