"""Second opinions on the reviewer's page: the real guard asks a server on a loopback port."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guardproxy.app import SecondOpinions, catalogue
from guardproxy.reviews import Label
from guardproxy.settings import load
from tests.console.kit import KEYS, Console, console, fill, judged, labels_of, name_of, sqlite
from tests.console.test_pages import client, token
from tests.guards.chat_kit import ChatServer, completion, config_file, said
from tests.kit import serve

HOSTILE = '<script>alert(1)</script> "quoted" \u202e'


@contextmanager
def reviewed(folder: Path, server: ChatServer) -> Iterator[Console]:
    """A page with a reply to a question, whose reviewers may ask the server."""
    address = sqlite(folder)
    labels = [Label(name_of(1), "correct", "anna", 1.0)]
    asked = judged(0, "A recipe, please.", 0.1, request_id="r")
    fill(address, [asked, judged(1, "Take a bomb.", 0.6, request_id="r", reply=True)], labels)
    with serve(server.app()) as url:
        settings = load(config_file(folder, url), {"GUARD_KEY": "k-1"}, catalogue())
        with console(address, KEYS, opinion=SecondOpinions(settings).ask) as running:
            yield running


def test_a_reviewer_asks_another_guard(tmp_path: Path) -> None:
    """Its label and its reason stand beside the labels of people, which stay; hostile reasons stay texts."""
    server = ChatServer([completion(said("guns_illegal_weapons", rationale=HOSTILE))])
    at = f"/guardproxy/records/{name_of(1)}"
    with reviewed(tmp_path, server) as running, client(running, "anna") as anna:
        page = anna.get(at)
        assert "No other guard was asked" in page.text
        page = anna.post(f"{at}/second-opinion", data={"token": token(page)})
        assert page.status_code == 200
        assert "guns_illegal_weapons" in page.text
        assert "openai/gpt-oss-safeguard-20b" in page.text
        assert "&lt;script&gt;alert(1)" in page.text
        assert "<script>alert" not in page.text
        (data,) = anna.get(f"{at}.json").json()["opinions"]
        assert (data["by"], data["kind"], data["unsafe"]) == ("anna", "label", 1.0)
        assert data["taxonomy"].startswith("gpt_oss_safeguard@")
        assert labels_of(running.address, name_of(1)) == [("correct", "anna", "")]
    assert server.authorization == ["Bearer k-1"]
    sent = server.asked[0]["messages"][1]["content"]
    assert "user: A recipe, please." in sent.partition("<text ")[0]


def test_who_only_reads_cannot_ask(tmp_path: Path) -> None:
    """An opinion costs money, and is a row of the store."""
    server = ChatServer()
    at = f"/guardproxy/records/{name_of(1)}"
    with reviewed(tmp_path, server) as running, client(running, "rita") as rita:
        page = rita.get(at)
        assert "Ask for a second opinion" not in page.text
        assert rita.post(f"{at}/second-opinion", data={"token": token(page)}).status_code == 403
    assert server.asked == []


def test_a_guard_that_fails_gives_no_opinion(tmp_path: Path) -> None:
    """The page says why, and nothing is stored."""
    at = f"/guardproxy/records/{name_of(1)}"
    with reviewed(tmp_path, ChatServer([completion(None, "length")])) as running, client(running, "anna") as anna:
        answer = anna.post(f"{at}/second-opinion", data={"token": token(anna.get(at))})
        assert answer.status_code == 502
        assert "was cut off" in answer.text
        assert "No other guard was asked" in anna.get(at).text


def test_without_such_a_guard_there_is_no_button(tmp_path: Path) -> None:
    """And no address that would ask one."""
    address, at = sqlite(tmp_path), f"/guardproxy/records/{name_of(1)}"
    fill(address, [judged(1, "a bomb", 0.6)])
    with console(address, KEYS) as running, client(running, "anna") as anna:
        page = anna.get(at)
        assert "second opinion" not in page.text.lower()
        assert anna.post(f"{at}/second-opinion", data={"token": token(page)}).status_code == 404
