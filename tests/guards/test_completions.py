"""A guard model on a server with the completions API: exact where tokens can be forced, bounded where they cannot."""

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardproxy.engine.decoder.grammar import ListSearch
from guardproxy.engine.decoder.prompts import PromptEncoder
from guardproxy.engine.tokenizer import PromptTokenizer
from guardproxy.errors import ConfigError, GuardUnavailable, Overloaded
from guardproxy.families.llama_guard import open_family
from guardproxy.guards.completions.api import read_next
from guardproxy.guards.completions.reader import Shares
from guardproxy.guards.links import ReplicaFailed
from guardproxy.guards.replicas import AskOptions, ReplicaGuard
from guardproxy.ports import Prompt
from guardproxy.types import Category, Check, Taxonomy, Verdict
from guardproxy.upstreams import Ejection
from tests.guards.completions_kit import END, STORED, TWO, Server, guard_of
from tests.guards.kit import check_of, found

BAD, GOOD = check_of("how do I build a bomb"), check_of("how do I bake bread")
# How servers differ: vLLM, llama.cpp, SGLang, llama-cpp-python (whose model ends answers invisibly), and one that
# refuses a bias.
SERVERS: dict[str, Callable[[], Server]] = {
    "numbers": Server,
    "entries": lambda: Server(named="entries"),
    "behind the bias": lambda: Server(named="texts", bias="biased", top=5),
    "texts": lambda: Server(takes_ids=False, named="texts", top=4),
    "no bias": lambda: Server(bias="refused", top=64),
}


def ask(guard: ReplicaGuard, *checks: Check) -> list[Verdict]:
    """The verdicts of a guard that is started for them."""

    async def judged() -> list[Verdict]:
        await guard.start()
        try:
            return [await guard.judge(check) for check in checks]
        finally:
            await guard.close()

    return asyncio.run(judged())


def spelled(prompt: Prompt) -> list[int]:
    """The tokens of a prompt."""
    (encoded,) = PromptEncoder(PromptTokenizer(STORED.backend), 4096, STORED.eos).encode(prompt)
    return encoded.ids


def exact(check: Check, server: Server) -> dict[str, float]:
    """P(unsafe) and the categories, from all probabilities of the server's model."""
    (prompt,) = open_family(taxonomy=TWO).render(check)
    (encoded,) = PromptEncoder(PromptTokenizer(STORED.backend), 4096, STORED.eos).encode(prompt)
    grammar: Any = encoded.answer
    shares = server.shares(encoded.ids)
    unsafe = shares[grammar.unsafe] / (shares[grammar.unsafe] + shares[grammar.safe])
    search = ListSearch(grammar, unsafe)
    while lists := search.next_lists(8):
        for one in lists:
            behind = server.shares([*encoded.ids, grammar.unsafe, *grammar.forced, *one.tokens])
            search.expand(one, lambda tokens, behind=behind: [math.log(behind[token]) for token in tokens])
    return {"unsafe": unsafe, **dict(zip(("hate", "fraud"), search.result(), strict=True))}


@pytest.mark.parametrize("kind", SERVERS)
def test_the_verdict_is_the_models_own(kind):
    """P(unsafe) and the categories are those of the full distribution, within what the verdict says, on any server."""
    server = SERVERS[kind]()
    verdicts = ask(guard_of(server, top=64), BAD, GOOD)
    for check, verdict in zip((BAD, GOOD), verdicts, strict=True):
        expected = exact(check, server)
        assert verdict.leftover < 0.011
        assert verdict.unsafe == pytest.approx(expected["unsafe"], abs=verdict.leftover + 1e-9)
        for category, share in found(verdict).items():
            assert share <= expected[category] + 1e-9
            assert share == pytest.approx(expected[category], abs=verdict.leftover + 1e-9)
    assert verdicts[0].outside == pytest.approx(0.05, abs=1e-6)
    assert verdicts[0].guard == "guard"
    assert verdicts[0].usage.tokens_computed > 0


def unsure(text: str) -> dict[str, float]:
    """A guard that finds all six categories as probable, and ends no list sooner than it continues."""
    if text.endswith("[/INST]"):
        return {" unsafe": 0.5, " safe": 0.45}
    if text.endswith("O"):
        return {str(number): 0.15 for number in range(1, 7)}
    return {",": 0.45, END: 0.45} if text[-1] in "123456" else {}


def test_an_unsure_model_is_not_asked_for_more_lists_than_the_uncertainty_needs():
    """Each list costs calls: the search ends when those that are left have half of the uncertainty, and says so."""
    six = Taxonomy("six", tuple(Category(f"c{n}", f"C{n}", code=f"O{n}") for n in range(1, 7)))
    calls, shares = [], []
    for uncertainty in (0.5, 0.125):
        server = Server(likely=unsure, top=64)
        (verdict,) = ask(guard_of(server, family=open_family(taxonomy=six), uncertainty=uncertainty, top=64), BAD)
        assert 0 < verdict.leftover < uncertainty / 2
        calls.append(len(server.asked))
        shares.append((verdict.leftover, found(verdict)))
    assert calls[0] < calls[1] / 4
    for category, share in shares[1][1].items():
        assert share - shares[0][0] - 1e-9 <= shares[0][1][category] <= share + shares[1][0] + 1e-9


def test_a_token_that_is_not_shown_is_forced():
    """A safe token outside of the most probable ones costs one more call, and the verdict is exact."""
    server = Server(
        top=2, likely=lambda text: {" unsafe": 0.02, "x": 0.5, "y": 0.4} if text.endswith("[/INST]") else {}
    )
    family = open_family(taxonomy=TWO, scoring="one_vs_all")
    (verdict,) = ask(guard_of(server, family=family), BAD)
    shares = server.shares(spelled(family.render(BAD)[0]))
    safe, unsafe = (shares[STORED.backend.encode(word).ids[0]] for word in (" safe", " unsafe"))
    assert verdict.unsafe == pytest.approx(unsafe / (safe + unsafe), abs=1e-9)
    assert verdict.leftover == 0.0
    assert verdict.outside >= 1 - safe - unsafe - 1e-9  # the greatest of all prompts


def test_a_bound_that_is_too_wide_is_no_verdict():
    """If neither answer can be seen, the guard fails and says what was shown; nothing is guessed."""
    server = Server(bias="ignored", top=3, likely=lambda _: {"x": 0.4, "y": 0.3, "z": 0.2})
    with pytest.raises(GuardUnavailable, match=r"server shows 3, and of the guard's answers only 0\.0000"):
        ask(guard_of(server, family=open_family(taxonomy=TWO, scoring="one_vs_all")), BAD)


@pytest.mark.parametrize("scoring", ["label_list", "one_vs_all"])
def test_answers_without_any_probability_are_no_verdict(scoring):
    """If both answers are shown with the probability 0, the text does not count as safe."""
    none = {" unsafe": 0.0, " safe": 0.0}
    server = Server(top=64, likely=lambda text: none if text.endswith("[/INST]") else {"1": 0.5})
    with pytest.raises(GuardUnavailable, match="with the probability 0"):
        ask(guard_of(server, family=open_family(taxonomy=TWO, scoring=scoring), top=64), BAD)


def test_a_bound_that_is_narrow_is_stated():
    """A guard that is sure shows one answer only: the verdict counts the other with the most that it can have."""
    sure = {" safe": 0.9991}
    server = Server(bias="ignored", top=3, likely=lambda text: sure if text.endswith("[/INST]") else {})
    family = open_family(taxonomy=TWO, scoring="one_vs_all")
    (verdict,) = ask(guard_of(server, family=family), GOOD)
    shares = server.shares(spelled(family.render(GOOD)[0]))
    unsafe = shares[STORED.backend.encode(" unsafe").ids[0]]
    assert 0 < unsafe / (unsafe + 0.9991) <= verdict.unsafe <= verdict.leftover < 1e-4


def test_an_end_that_is_hidden_is_refused_at_the_start():
    """Where the end of a list cannot be seen, label lists are refused with what to do, and single categories work."""
    server = Server(takes_ids=False, named="texts", hides_end=True)
    with pytest.raises(ConfigError, match=r"does not show the token '<\|end\|>'.*scoring: one_vs_all"):
        ask(guard_of(server), BAD)
    (verdict,) = ask(guard_of(server, family=open_family(taxonomy=TWO, scoring="one_vs_all")), BAD)
    assert verdict.unsafe > 0.9


def test_control_tokens_in_a_text_stay_text():
    """On a server that reads text, a control token in the turn is broken up; elsewhere it is spelled as it stands."""
    check = check_of(f"bread {END} or </s>")
    texts, numbers = Server(takes_ids=False, named="texts", top=64), Server()
    ask(guard_of(texts), check)
    assert END not in texts.asked[-1]["prompt"]
    ask(guard_of(numbers), check)
    assert STORED.eos[0] not in numbers.asked[-1]["prompt"][:-1]


def test_the_token_at_the_beginning_stands_once():
    """A server that puts a token before every text gets the prompt without it, if that is how the prompt begins."""
    family = open_family(taxonomy=TWO, version="3-1b")
    with pytest.raises(ConfigError, match="no control token"):
        ask(guard_of(Server(), family=family), GOOD)
    with pytest.raises(ConfigError, match=r"reads .* tokens where the prompt has"):
        ask(guard_of(Server(takes_ids=False, named="texts", begins=True, top=64)), GOOD)


def test_a_prompt_that_is_cut_is_no_verdict():
    """A server that reads fewer tokens than the prompt has gives no verdict."""
    server = Server()

    def cut() -> httpx.Response:
        body = server.asked[-1]
        return server._completion({**body, "prompt": body["prompt"][5:]})

    guard = guard_of(server)

    async def judged() -> None:
        await guard.start()
        server.answers = [cut]
        await guard.judge(BAD)

    with pytest.raises(GuardUnavailable, match="of a prompt of"):
        asyncio.run(judged())


def test_a_long_text_is_judged_in_windows():
    """A text longer than the server's context is judged in windows, and the worst counts."""
    server = Server(context=700)
    (verdict,) = ask(guard_of(server), check_of("bread " * 200 + "bomb " + "bread " * 200))
    assert verdict.usage.windows > 2
    assert verdict.unsafe > 0.9
    assert max(len(body["prompt"]) for body in server.asked) < 700


def test_an_unknown_context_is_a_mistake():
    """A server that does not say how much it reads needs `completions.context_tokens`."""
    with pytest.raises(ConfigError, match=r"completions\.context_tokens"):
        ask(guard_of(Server(context=None)), GOOD)
    assert ask(guard_of(Server(context=None), context=4000), GOOD)[0].unsafe < 0.1


def test_another_model_is_told():
    """A server without the model is not used, and the failure names what it has."""
    server = Server(model="other")
    guard = guard_of(server)
    server.model = "renamed"
    with pytest.raises(GuardUnavailable, match="it has no model 'other', but 'renamed'"):
        ask(guard, GOOD)


def status(code: int, headers: dict[str, str] | None = None, body: Any = None) -> Callable[[], httpx.Response]:
    """An answer with a status."""
    return lambda: httpx.Response(code, headers=headers, json=body or {"error": {"message": "the secret prompt"}})


def logprobs(value: Any) -> Callable[[], httpx.Response]:
    """A completion with these logprobs."""
    return status(200, body={"choices": [{"logprobs": value}], "usage": {"prompt_tokens": 9}})


def raises(error: Exception) -> Callable[[], httpx.Response]:
    """A connection that fails."""

    def fail() -> httpx.Response:
        raise error

    return fail


ODD: dict[str, tuple[Callable[[], Any], str]] = {
    "null": (logprobs(None), "no logprobs"),
    "partial": (logprobs({"tokens": ["a"]}), "no completion"),
    "empty": (lambda: httpx.Response(200, json={}), "no completion"),
    "text": (lambda: httpx.Response(200, text="<html>"), "not JSON"),
    "list": (lambda: httpx.Response(200, json=[]), "no JSON object"),
    "positive": (logprobs({"tokens": ["a"], "token_logprobs": [2.0], "top_logprobs": [{}]}), "no completion"),
    "bytes": (logprobs({"tokens": [[104]], "token_logprobs": [-1.0], "top_logprobs": [{}]}), "no completion"),
    "too much": (logprobs({"tokens": ["a"], "token_logprobs": [-0.1], "top_logprobs": [{"b": -0.1}]}), "more than 1"),
    "refused": (status(400), r"refuses the prompt \(400\)"),
    "key": (status(401), r"guard\.replicas\.key"),
    "gone": (status(404), "404"),
    "starting": (status(503), "503"),
    "broken off": (raises(httpx.ReadError("gone")), "broke the connection off"),
    "down": (raises(httpx.ConnectError("no")), "cannot be reached"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_answer_is_no_verdict(kind):
    """Whatever a server answers in place of a completion, the guard is unavailable; no message quotes the prompt."""
    answer, message = ODD[kind]
    server = Server()
    guard = guard_of(server)

    async def judged() -> None:
        await guard.start()
        server.answers = [answer]
        await guard.judge(BAD)

    with pytest.raises(GuardUnavailable, match=message) as caught:
        asyncio.run(judged())
    assert "secret" not in str(caught.value)


def test_too_many_requests_are_overload():
    """429 is overload, with the time that the server asks for."""
    server = Server()
    guard = guard_of(server)

    async def judged() -> None:
        await guard.start()
        server.answers = [status(429, {"retry-after": "7"})]
        await guard.judge(BAD)

    with pytest.raises(Overloaded) as caught:
        asyncio.run(judged())
    assert caught.value.retry_s == 7.0


def test_a_slow_server_is_given_up_and_another_one_asked():
    """A call that takes too long ends with the check's time; a second server answers for one that fails."""
    slow, good = Server(), Server()
    guard = guard_of(slow, asking=AskOptions(timeout_s=0.3, attempts=1, check_every_s=60))

    async def judged() -> Verdict:
        await guard.start()
        slow.answers = [lambda: asyncio.sleep(3600)]
        with pytest.raises(GuardUnavailable, match="no answer in time"):
            await guard.judge(BAD)
        both = guard_of(slow, good, asking=AskOptions(timeout_s=20, attempts=2, ejection=Ejection(1, 60, 60)))
        await both.start()
        slow.answers = [status(500)] * 9
        verdicts = [await both.judge(replace(BAD, stream=str(number))) for number in range(4)]
        assert both.about().keys() == {"http://server-0:8000", "http://server-1:8000"}
        await both.close()
        return verdicts[-1]

    assert asyncio.run(judged()).unsafe > 0.9


def test_what_a_server_can_do_is_told():
    """/healthz has what the probe has found."""
    guard = guard_of(Server(named="texts", bias="biased", top=5))
    ask(guard, GOOD)
    (facts,) = guard.about().values()
    assert facts == {
        "state": "up",
        "prompts": "token ids",
        "tokens_named_by": "text",
        "bias": "biased",
        "tokens_shown": 5,
        "context_tokens": 4096,
    }


SHARE = st.floats(0, 1)


@given(st.lists(st.tuples(SHARE, SHARE, SHARE), min_size=1, max_size=5))
@settings(max_examples=200)
def test_the_bound_covers_every_possible_truth(values):
    """Whatever the tokens' probabilities are within their bounds, the stated share is off by no more than stated."""
    tokens = [(min(a, b), max(a, b), c) for a, b, c in values]
    true = [low + (high - low) * where for low, high, where in tokens]
    if not sum(true):
        return
    shares = Shares(tuple(low for low, _, _ in tokens), tuple(high for _, high, _ in tokens), 0.0)
    for index, value in enumerate(true):
        share = value / sum(true)
        assert abs(share - shares.of(index)) <= shares.uncertainty + 1e-9
        assert shares.certain(index) <= share + 1e-9


KEYS = st.sampled_from(["tokens", "token_logprobs", "top_logprobs", "content", "id", "token", "logprob"])
LEAF = st.none() | st.booleans() | st.floats() | st.text()


ENTRY = LEAF | st.dictionaries(KEYS | st.text(), LEAF | st.lists(st.dictionaries(KEYS, LEAF)))


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt_tokens": 1e999}',
        '{"prompt_tokens": 3.9}',
        '{"prompt_tokens": "3"}',
        '{"prompt_tokens": true}',
        '{"prompt_tokens": -3}',
        '{"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1e999}}',
    ],
)
def test_a_number_of_tokens_is_a_whole_number(text: str) -> None:
    """It says whether the whole prompt was read, so it is not rounded."""
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.1], "top_logprobs": [{}]}
    with pytest.raises(ReplicaFailed, match="no completion"):
        read_next({"choices": [{"logprobs": logprobs}], "usage": json.loads(text)})


def test_a_whole_number_too_large_for_a_probability() -> None:
    """It is refused as any other value that is none."""
    logprobs = {"tokens": ["a"], "token_logprobs": [-(10**400)], "top_logprobs": [{}]}
    with pytest.raises(ReplicaFailed, match="no completion"):
        read_next({"choices": [{"logprobs": logprobs}], "usage": {"prompt_tokens": 3}})


@given(ENTRY | st.lists(ENTRY) | st.dictionaries(KEYS, ENTRY | st.lists(ENTRY)))
@settings(max_examples=200)
def test_any_json_is_read_or_refused(value):
    """No answer of a server raises anything but ReplicaFailed."""
    try:
        seen = read_next({"choices": [{"logprobs": value}], "usage": {"prompt_tokens": 3}})
    except ReplicaFailed:
        return
    assert all(0 <= share <= 1 for share in seen.shown.values())
