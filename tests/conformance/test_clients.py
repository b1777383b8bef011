"""Every official client against every kind of exchange: no parse error, no retry, nothing unjudged, the right end."""

from collections.abc import Iterator
from functools import partial

import anthropic
import httpx
import openai
import pytest

from tests.conformance.clients import CLIENTS, PARSERS, STOPS, Client
from tests.conformance.reading import Reach
from tests.conformance.speech import CHATS, PROTOCOLS, Protocol, conversation, plain
from tests.conformance.stand import CLOSING, MARKER, REFUSAL, REPLACEMENT, Stand, standing
from tests.kit import Scripted
from tests.wires.kit import BY_NAME, Case, fed

REASON = b'"guardproxy":{"request_id":"%b","action":"block"}'

each_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
each_stream = pytest.mark.parametrize(
    "client", [client for client in CLIENTS if client.streamed], ids=lambda client: client.name
)
each_parser = pytest.mark.parametrize("client", PARSERS, ids=lambda client: client.name)


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """A proxy for all tests of this module."""
    with standing() as found:
        yield found


def _protocol(client: Client) -> Protocol:
    return PROTOCOLS[client.protocol]


def _stop(client: Client, *, filtered: bool) -> str:
    return STOPS[client.protocol][0 if filtered else 1]


def _text(case: Case) -> str:
    """Return the answer's text in a recorded stream."""
    stream = case.open()
    fed(stream, [case.raw])
    return "".join(part.text for part in stream.message(0).parts if part.kind == "text")


@each_client
def test_clean(stand: Stand, client: Client) -> None:
    """The client reads a harmless answer in full, and its bytes are the upstream's."""
    case = BY_NAME[client.protocol]
    recorded = case.raw if client.streamed else case.reply
    # These clients send no instructions, and a response repeats the instructions of its request.
    body = recorded.replace(b'"instructions": "Answer briefly."', b'"instructions": null')
    kind = case.content_type if client.streamed else "application/json"
    stand.play(Scripted([body], headers={"content-type": kind}))
    read = stand.ask(client, "Hello there.")
    assert read.text == _text(case)
    assert read.status == 0
    assert stand.received == body
    assert stand.asked() == [stand.watch.crossed[0].asked]
    assert stand.header["x-guardproxy-action"] == "pass"


@each_client
def test_flagged(stand: Stand, client: Client) -> None:
    """Flagged turns pass unchanged in both directions, and are recorded."""
    stand.answer_with(client, _protocol(client), ["How ", "rude ", "of me."])
    read = stand.ask(client, "Say a rude thing.")
    assert (read.text, read.stop) == ("How rude of me.", _stop(client, filtered=False))
    assert stand.asked() == [stand.watch.crossed[0].asked]
    assert {(record.side, record.decision.action) for record in stand.records(2)} == {
        ("user", "flag"),
        ("assistant", "flag"),
    }
    assert stand.header["x-guardproxy-action"] == "flag"


@each_client
def test_replaced_prompt(stand: Stand, client: Client) -> None:
    """A replaced turn reaches the model with its new text."""
    stand.answer_with(client, _protocol(client), ["All ", "is ", "well."])
    read = stand.ask(client, "My secret is this.")
    assert (read.text, read.stop) == ("All is well.", _stop(client, filtered=False))
    (asked,) = stand.asked()
    assert b"secret" not in asked
    assert REPLACEMENT.encode() in asked


@each_client
def test_redacted_prompt(stand: Stand, client: Client) -> None:
    """A redacted turn reaches the model without the harmful sentence."""
    stand.answer_with(client, _protocol(client), ["All ", "is ", "well."])
    read = stand.ask(client, "Tides come in. The secret is mine. Boats wait.", "redact")
    assert read.text == "All is well."
    (asked,) = stand.asked()
    assert b"secret" not in asked
    assert f"Tides come in. {MARKER} Boats wait.".encode() in asked


@each_client
def test_replaced_reply(stand: Stand, client: Client) -> None:
    """The client reads the replacement of a reply, with an ordinary end."""
    stand.answer_with(client, _protocol(client), ["The ", "secret ", "is out."])
    read = stand.ask(client, "Hello there.")
    assert (read.text, read.stop) == (REPLACEMENT, _stop(client, filtered=False))
    assert b"secret" not in stand.received


@each_client
def test_redacted_reply(stand: Stand, client: Client) -> None:
    """The client reads a redacted reply without the harmful sentence, with an ordinary end."""
    stand.answer_with(client, _protocol(client), ["Tides come in. ", "The secret ", "is mine. ", "Boats wait."])
    read = stand.ask(client, "Hello there.", "redact")
    assert (read.text, read.stop) == (f"Tides come in. {MARKER} Boats wait.", _stop(client, filtered=False))
    assert b"secret" not in stand.received


@each_client
def test_blocked_prompt(stand: Stand, client: Client) -> None:
    """A harmful turn does not reach the model; the client reads the refusal and the protocol's own stop reason."""
    stand.answer_with(client, _protocol(client), ["All is well."])
    read = stand.ask(client, "How do I mix poison?")
    assert (read.text, read.stop) == (REFUSAL, _stop(client, filtered=True))
    assert stand.asked() == []
    assert stand.header["x-guardproxy-action"] == "block"
    assert REASON % stand.header["x-guardproxy-request-id"].encode() in stand.received
    assert b"poison" not in stand.received


@each_client
def test_blocked_prompt_that_ends_plainly(stand: Stand, client: Client) -> None:
    """With `finish: stop` a refusal ends like any answer, so that helpers return its text."""
    stand.answer_with(client, _protocol(client), ["All is well."])
    read = stand.ask(client, "How do I mix poison?", "plain")
    assert (read.text, read.stop) == (REFUSAL, _stop(client, filtered=False))
    assert stand.asked() == []


@each_client
def test_blocked_prompt_as_error(stand: Stand, client: Client) -> None:
    """With `how: error` a block is the protocol's error of status 400, and no client retries."""
    stand.answer_with(client, _protocol(client), ["All is well."])
    read = stand.ask(client, "How do I mix poison?", "error")
    assert read.status == 400
    assert REFUSAL in read.error
    assert b"content_filter" in stand.received.lower()
    assert stand.asked() == []


@each_client
def test_blocked_reply(stand: Stand, client: Client) -> None:
    """A harmful reply does not reach the client, which reads the refusal and the protocol's own stop reason."""
    stand.answer_with(client, _protocol(client), ["Take ", "poison ", "and stir."])
    read = stand.ask(client, "Hello there.")
    assert (read.text, read.stop) == (REFUSAL, _stop(client, filtered=True))
    assert REASON % stand.header["x-guardproxy-request-id"].encode() in stand.received
    assert len(stand.asked()) == 1
    assert b"poison" not in stand.received
    assert b"stir" not in stand.received


@each_client
def test_blocked_reply_as_error(stand: Stand, client: Client) -> None:
    """With `how: error` a blocked reply is the protocol's error before its first text is sent, streamed or not."""
    stand.answer_with(client, _protocol(client), ["Take ", "poison ", "and stir."])
    read = stand.ask(client, "Hello there.", "error")
    assert read.status == 400
    assert REFUSAL in read.error
    assert b"content_filter" in stand.received.lower()
    assert b"poison" not in stand.received
    assert (len(stand.asked()), stand.header["x-guardproxy-action"]) == (1, "block")
    assert [record.outcome for record in stand.records(2)] == ["pass", "refuse"]


@each_client
def test_clean_where_blocks_are_errors(stand: Stand, client: Client) -> None:
    """A harmless reply arrives in full although its first frames waited for its first text."""
    stand.answer_with(client, _protocol(client), ["All ", "is ", "well, ", "and so on."])
    read = stand.ask(client, "Hello there.", "error")
    assert (read.text, read.stop) == ("All is well, and so on.", _stop(client, filtered=False))


@each_stream
@pytest.mark.parametrize("model", ["m", "plain", "error"])
def test_cut(stand: Stand, client: Client, model: str) -> None:
    """A stream that turns harmful ends behind the judged text, with the protocol's stop reason."""
    wait = partial(stand.watch.wait_for, b"afternoon", 60)
    stand.answer_with(
        client, _protocol(client), ["Tides come in ", "the afternoon. ", wait, "Then take ", "poison ", "now."]
    )
    read = stand.ask(client, "Hello there.", model)
    assert read.text.startswith("Tides come in the afternoon. ")
    assert read.text.removeprefix("Tides come in the afternoon. ") in (CLOSING, f"Then take {CLOSING}")
    assert REASON % stand.header["x-guardproxy-request-id"].encode() in stand.received
    assert read.stop == _stop(client, filtered=model != "plain")
    assert b"poison" not in stand.received
    assert b"now." not in stand.received


@each_stream
def test_a_stream_that_cannot_be_judged(stand: Stand, client: Client) -> None:
    """If the guard fails in a stream, the client raises its own error behind the judged text, and reads no refusal."""
    wait = partial(stand.watch.wait_for, b"afternoon", 60)
    stand.answer_with(client, _protocol(client), ["Tides come in ", "the afternoon. ", wait, "FAIL ", "now."])
    try:
        told = client.ask(Reach(stand.watch.url, "m"), "Hello there.").error
    except openai.APIError as error:  # it has no status: the stream began with 200
        told = str(error)
    assert "the guard is unavailable" in told
    assert b"FAIL" not in stand.received
    assert REFUSAL.encode() not in stand.received


@each_parser
def test_parsed(stand: Stand, client: Client) -> None:
    """A structured answer is parsed as without the proxy."""
    stand.answer_with(client, _protocol(client), ['{"number": 7}'])
    read = stand.ask(client, "Which number?")
    assert read.parsed.number == 7
    assert stand.asked() == [stand.watch.crossed[0].asked]


@each_parser
@pytest.mark.parametrize("content", ['{"number": "poison"}', '{"number": "a secret"}'], ids=["blocked", "rewritten"])
def test_parsed_refusal(stand: Stand, client: Client, content: str) -> None:
    """A parser of structured output reads a refusal and a rewrite without an error of parsing."""
    stand.answer_with(client, _protocol(client), [content])
    read = stand.ask(client, "Which number?")
    assert read.parsed is None
    assert read.stop == _stop(client, filtered=True)
    assert b"poison" not in stand.received
    assert b"secret" not in stand.received


@each_parser
def test_parsed_blocked_prompt(stand: Stand, client: Client) -> None:
    """The same for a refused prompt."""
    stand.answer_with(client, _protocol(client), ['{"number": 7}'])
    read = stand.ask(client, "How do I mix poison?")
    assert read.parsed is None
    assert read.stop == _stop(client, filtered=True)
    assert stand.asked() == []


@pytest.mark.parametrize("name", CHATS)
def test_a_refused_exchange_that_is_sent_again(stand: Stand, name: str) -> None:
    """A conversation can go on after a refusal, and the refused turn does not reach the model."""
    protocol = PROTOCOLS[name]
    stand.play(Scripted([plain(protocol.whole("All is well."))]))
    asked = plain(conversation(name, ["How do I mix poison?", REFUSAL, "Hello there."]))
    answer = httpx.post(stand.watch.url + protocol.target(stream=False), content=asked, timeout=60)
    assert b"All is well." in answer.content
    assert answer.headers["x-guardproxy-dropped-turns"] == "0,1"
    (forwarded,) = stand.asked()
    assert b"poison" not in forwarded
    assert b"Hello there." in forwarded


def test_lists_of_models(stand: Stand) -> None:
    """The lists of models of two protocols share a path; both pass with the headers that distinguish them."""
    one = {"id": "m", "object": "model", "created": 1, "owned_by": "o"}
    stand.play(Scripted([plain({"object": "list", "data": [one]})]))
    with openai.OpenAI(base_url=f"{stand.watch.url}/v1", api_key="k") as client:
        assert [model.id for model in client.models.list()] == ["m"]
    two = {"id": "n", "type": "model", "display_name": "N", "created_at": "2026-01-02T03:04:05Z"}
    stand.play(Scripted([plain({"data": [two], "has_more": False, "first_id": "n", "last_id": "n"})]))
    with anthropic.Anthropic(base_url=stand.watch.url, api_key="k") as client:
        assert [model.id for model in client.models.list()] == ["n"]
    assert stand.upstream.seen[0].header("anthropic-version")


def test_counting_tokens(stand: Stand) -> None:
    """A request to count tokens passes: no model answers it."""
    stand.play(Scripted([b'{"input_tokens": 7}']))
    with anthropic.Anthropic(base_url=stand.watch.url, api_key="k") as client:
        counted = client.messages.count_tokens(model="m", messages=[{"role": "user", "content": "Hello there."}])
    assert counted.input_tokens == 7
    assert stand.asked() == [stand.watch.crossed[0].asked]
