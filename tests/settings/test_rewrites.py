"""Rewrites in a configuration: their texts and bounds, and combinations that make no sense."""

import pytest

from guardproxy.app.registries import catalogue
from guardproxy.localtext import LocalText
from guardproxy.policy import Rule
from tests.settings.kit import mistakes, read

NAMES = catalogue()
HEAD = "version: 1\nupstream: {url: http://llm.test}\n"
STEER = "suicide_self_harm: {rewrite: {at: 0.4, how: steer}}"
REGENERATE = "violence_hate: {rewrite: {at: 0.4, how: regenerate}}"
REDACT = "violence_hate: {rewrite: {at: 0.4, how: redact}}"
PLAIN = "'*': {block: 0.5}"
TOLD = "rewrite: {instruction: Be kind.}"


def file(user: str = PLAIN, assistant: str = PLAIN, more: str = "", below: str = "") -> str:
    """A file whose only policy has these rules."""
    beside = f", {more}" if more else ""
    return f"{HEAD}policies: {{default: {{user: {{{user}}}, assistant: {{{assistant}}}{beside}}}}}\n{below}"


def found(text: str) -> list[str]:
    """The mistakes of a file, without their places in it."""
    return [mistake.split(": ", 1)[1].removeprefix("policies.default.") for mistake in mistakes(text, names=NAMES)]


def test_the_options() -> None:
    """Every option of the section, in its place."""
    own = "replacement: X, marker: Y, max_checks: 7, retry_instruction: Again., tries: 3, retry_s: 5"
    texts = "{suicide_self_harm: {de: Nett., '*': Kind.}, '*': Care.}"
    rules = read(
        file(f"{STEER}, {REDACT}, {PLAIN}", REGENERATE, f"rewrite: {{{own}, instruction: {texts}}}"), names=NAMES
    ).policies.policies["default"]
    rewrite = rules.rewrite
    assert (rewrite.replacement, rewrite.marker, rewrite.max_checks) == ("X", "Y", 7)
    assert (rewrite.retry_instruction, rewrite.tries, rewrite.retry_s) == ("Again.", 3, 5)
    assert rewrite.instructions == {
        "suicide_self_harm": LocalText({"de": "Nett.", "*": "Kind."}),
        "*": LocalText({"*": "Care."}),
    }
    assert rules.user.by_category["suicide_self_harm"] == (Rule("rewrite", 0.4, "steer"),)
    one = read(file(STEER, PLAIN, TOLD), names=NAMES).policies.policies["default"].rewrite.instructions
    assert one == {"*": LocalText({"*": "Be kind."})}


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (
            file(PLAIN, STEER, TOLD),
            (
                "assistant.suicide_self_harm.rewrite.how: tells the model something before it answers, so it is for "
                "requests; write it under user"
            ),
        ),
        (
            file(REGENERATE),
            "user.violence_hate.rewrite.how: asks for another reply, so it is for replies; write it under assistant",
        ),
        (
            file(more=f"unsafe: {{rewrite: {{at: 0.4, how: steer}}}}, {TOLD}"),
            "unsafe.rewrite.how: is for one side only; write these rules under user",
        ),
        (
            file(more="unsafe: {rewrite: {at: 0.4, how: regenerate}}"),
            "unsafe.rewrite.how: is for one side only; write these rules under assistant",
        ),
        (
            file(STEER),
            (
                "user.suicide_self_harm.rewrite.how: needs what the model is told; write rewrite: {instruction: TEXT} "
                "in the policy"
            ),
        ),
        (
            file(more=TOLD),
            "rewrite.instruction: has no effect, because no rule of the policy has how: steer; add one, or remove it",
        ),
        (
            file(more="rewrite: {tries: 2}"),
            "rewrite.tries: has no effect, because no rule of the policy has how: regenerate; add one, or remove it",
        ),
        (
            file(more="rewrite: {max_checks: 9}"),
            "rewrite.max_checks: has no effect, because no rule of the policy has how: redact; add one, or remove it",
        ),
        (file(REDACT, more="rewrite: {max_checks: 1}"), "rewrite.max_checks: must be at least 2, not 1"),
        (file(assistant=REGENERATE, more="rewrite: {tries: 9}"), "rewrite.tries: must be at most 5, not 9"),
        (
            file(assistant=REGENERATE, more="stream: {mode: monitor}"),
            (
                "assistant.violence_hate.rewrite.how: has no effect on streams with mode: monitor, which passes them "
                "on at once; write mode: hold_all"
            ),
        ),
        (
            file(STEER, more="rewrite: {instruction: {suicide_self_harm: Kind.}}"),
            'rewrite.instruction: needs a text for all other categories: "*"',
        ),
        (
            file(f"{STEER}, {PLAIN}", more="rewrite: {instruction: {violence_hate: Kind., '*': Care.}}"),
            (
                "rewrite.instruction.violence_hate: is never told, because no rule for requests steers this category; "
                "write how: steer, or remove it"
            ),
        ),
        (
            file(STEER, more="rewrite: {instruction: {self_harm: Kind., '*': Care.}}"),
            "rewrite.instruction.self_harm: unknown category 'self_harm'; did you mean suicide_self_harm?",
        ),
        (
            file(STEER, more="rewrite: {instruction: {'*': {german: Nett., '*': Care.}}}"),
            'rewrite.instruction.*.german: must be a language (de), a country (DE), both (de-DE) or "*"',
        ),
        (
            file(STEER, more="rewrite: {instruction: texts.yaml}"),
            "rewrite.instruction: is taken as the text itself; write file:texts.yaml in place of all texts by place",
        ),
        (
            file(STEER, more=TOLD, below="routes: [{name: fast, policy: default, overlap: true}]\n"),
            (
                "routes[0].overlap: sends a request that the policy default steers without its instruction first, and "
                "then again; remove it, or write block in place of how: steer"
            ),
        ),
        (
            file(
                STEER,
                more=TOLD,
                below="routes: [{name: v, policy: default, when: {protocol: '*_embeddings'}}]\n",
            ),
            ("routes[0]: default has how: steer, but no model answers in this protocol: it blocks there; write block"),
        ),
    ],
)
def test_what_makes_no_sense(text: str, mistake: str) -> None:
    """Each is one mistake, which says what to write."""
    assert found(text) == [mistake]


def test_what_makes_sense() -> None:
    """A header for places counts for instructions; a route with overlap may regenerate; a text per place in a file."""
    by_place = "block: {place_header: x-country}, rewrite: {instruction: {'*': {DE: Nett., '*': Kind.}}}"
    assert found(file(STEER, more=by_place)) == []
    overlap = "routes: [{name: fast, policy: default, overlap: true}]\n"
    assert found(file(assistant=REGENERATE, below=overlap)) == []
    assert found(file(STEER, more="rewrite: {instruction: 'file:crisis.yaml'}")) == []
