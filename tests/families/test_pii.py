"""Personal data: which entities are found and where, what is a mistake, and that Presidio stays within its bounds."""

import inspect
import json
import sys
import time
from importlib import import_module
from typing import Any

import pytest

from guardproxy.app import catalogue
from guardproxy.app.finders import matches, reaches
from guardproxy.app.guards import traits
from guardproxy.errors import ConfigError, GuardUnavailable
from guardproxy.families.pii import PiiFamily, open_family
from guardproxy.families.pii.entities import BY_COUNTRY, EMAIL, ENTITIES, PHONE
from guardproxy.families.pii.recognisers import around_signs
from guardproxy.patterns import Reach
from guardproxy.settings import Settings, load_text

pytest.importorskip("presidio_analyzer", reason="the extra pii is not installed")

# Recognisers that look for no person, or whose match or look around it has no bound.
LEFT_OUT = {
    *("DateRecognizer", "UrlRecognizer", "UuidRecognizer", "DeHandelsregisterRecognizer"),
    *("UsClaimNumberRecognizer", "UsHealthInsuranceMemberIdRecognizer", "UsPrescriptionNumberRecognizer"),
    *("UsPriorAuthorizationNumberRecognizer", "UsProviderTaxIdRecognizer", "UsReferralNumberRecognizer"),
}
FOUND = [
    ("mail bob.smith@example.com now", EMAIL, "bob.smith@example.com", 1.0),
    ("bob@localhost", EMAIL, None, 0.0),
    ("card 4111 1111 1111 1111.", "credit_card", "4111 1111 1111 1111", 1.0),
    ("card 4111 1111 1111 1112.", "credit_card", None, 0.0),
    ("to DE89 3704 0044 0532 0130 00 2 days ago", "iban_code", "DE89 3704 0044 0532 0130 00", 1.0),
    ("from 203.0.113.7:80", "ip_address", "203.0.113.7", 0.6),
    ("at 00:1B:44:11:3A:B7", "mac_address", "00:1B:44:11:3A:B7", 0.6),
    ("btc 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "crypto", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", 1.0),
    ("or +49 30 1234567", PHONE, "+49 30 1234567", 0.4),
    ("Phones: (212) 555-0100", PHONE, "(212) 555-0100", 0.75),
    ("in 2024, 10:30, room 214", PHONE, None, 0.0),
    ("number 536-90-4399", "us_ssn", "536-90-4399", 0.5),
    ("my social security number is the following one: 536-90-4399", "us_ssn", "536-90-4399", 0.85),
    ("since 130692544", "ca_sin", "130692544", 0.05),
    ("his sin is 130692544", "ca_sin", "130692544", 0.4),
]


@pytest.fixture(scope="module")
def every() -> PiiFamily:
    """The family with every entity."""
    return open_family(entities=tuple(ENTITIES))


def found(family: PiiFamily, text: str, name: str) -> tuple[str | None, float]:
    """The most probable match of an entity."""
    hits = [hit for hit in family.hits(text) if hit.category == f"pii_{name}"]
    best = max(hits, key=lambda hit: hit.probability, default=None)
    return (text[slice(*best.span)], round(best.probability, 2)) if best else (None, 0.0)


@pytest.mark.parametrize(("text", "name", "match", "score"), FOUND)
def test_what_is_found(every: PiiFamily, text: str, name: str, match: str | None, score: float) -> None:
    """Presidio's checks of its matches apply, and words before a match make it more probable."""
    assert found(every, text, name) == (match, score)


def test_every_entity_has_the_bound_of_its_expressions() -> None:
    """Each recogniser of Presidio that needs no model is there, with the most characters that it can match."""
    recognisers: Any = import_module("presidio_analyzer.predefined_recognizers")
    base = import_module("presidio_analyzer").PatternRecognizer
    width = import_module("re._parser").parse
    known = {entity.recogniser: (name, entity.most) for name, entity in ENTITIES.items()}
    for name in set(recognisers.__all__) - LEFT_OUT:
        kind = getattr(recognisers, name)
        if not (inspect.isclass(kind) and issubclass(kind, base)):
            continue
        one = kind()
        entity, most = known.pop(name)
        assert entity == one.supported_entities[0].lower()
        assert entity in BY_COUNTRY.get(one.COUNTRY_CODE, ENTITIES)
        bounds = [width(pattern.regex.replace("(?i)", "")).getwidth()[1] for pattern in one.patterns]
        if entity in ("ip_address", EMAIL):  # the names of zones, and addresses, have no bound in their expressions
            bounds = [bound for bound in bounds if bound < 1000]
        assert all(bound <= most for bound in bounds)
    assert set(known) == {"PhoneRecognizer"}


def test_a_verdict_has_every_category_and_no_harm(every: PiiFamily) -> None:
    """The place of the most probable match; P(unsafe) is 0, so that rules for harm do not act."""
    text = "number 536-90-4399, ssn 536-90-4398"
    verdict = every.verdict(text, "g")
    by_category = {finding.category: finding for finding in verdict.findings}
    assert len(by_category) == len(ENTITIES)
    ssn = by_category["pii_us_ssn"]
    assert (ssn.label, text[slice(*(ssn.span or (0, 0)))]) == ("UsSsnRecognizer", "536-90-4398")
    assert verdict.unsafe == by_category["pii_email_address"].probability == 0.0


def test_letters_of_escapes_belong_to_no_address(every: PiiFamily) -> None:
    """Of JSON, as results of tools are."""
    text = json.dumps({"a": "x\nbob@example.com"})
    assert found(every, text, EMAIL) == ("bob@example.com", 1.0)


@pytest.mark.parametrize("name", ["credit_card", "us_ssn", EMAIL, "ip_address", "iban_code", PHONE])
def test_an_undecided_match_is_within_reach(every: PiiFamily, name: str) -> None:
    """In a text that grows, a match counts as soon as nothing can change it; until then it is in what is held back."""
    text, match = next((text, match) for text, one, match, score in FOUND if one == name and match and score > 0.3)
    start = text.index(match)
    reach = every.reaches[f"pii_{name}"]
    whole = text + " and so on" * 40
    for end in range(start + 1, len(whole)):
        hits = [hit for hit in every.hits(whole[:end], unfinished=True) if hit.category == f"pii_{name}"]
        assert hits or end - reach.undecided(whole[:end]) <= start, end
    assert any(hit.span == (start, start + len(match)) for hit in hits)


def test_nothing_is_fetched() -> None:
    """Presidio's own recogniser of addresses loads a list of suffixes from the Internet."""
    asked: list[str] = []
    watching = [True]
    sys.addaudithook(lambda event, _: asked.append(event) if watching[0] and event.startswith("socket.") else None)
    family = open_family(entities=(EMAIL,))
    assert found(family, "bob@example.co.uk", EMAIL)[1] == 1.0
    watching[0] = False
    assert asked == []


@pytest.mark.parametrize(
    "text",
    [
        "a-" * 5_000,
        "a.a@" * 2_500,
        ("a." * 60 + "@" + "b-" * 120) * 30,
        "AA11 1111 " * 1_000,
        "1" * 10_000,
        "ab:" * 3_300,
    ],
)
def test_time_is_linear(text: str) -> None:
    """On texts on which an expression tries much: ten times the text takes no hundred times the time."""
    family = open_family()
    family.load()

    def seconds(one: str) -> float:
        started = time.process_time()
        family.hits(one)
        return time.process_time() - started

    assert seconds(text * 10) < 40 * max(min(seconds(text) for _ in range(3)), 0.002)


def test_many_signs_of_addresses() -> None:
    """What is searched around one ends at the next, so that no character is searched more than twice."""

    class Counting:
        searched = 0

        def search(self, _: str, start: int, end: int) -> None:
            self.searched += end - start

    for text in ("a@" * 5_000, "bob@example.com " * 500, "@" * 5_000):
        counting = Counting()
        assert list(around_signs(counting, text)) == []
        assert counting.searched <= 2 * len(text)


@pytest.mark.parametrize("between", ["@", "@@", ", ", "@x@", " @ "])
def test_addresses_beside_other_signs(between: str) -> None:
    """Each is found, whatever stands between two of them."""
    family = open_family(entities=(EMAIL,))
    text = between.join(["bob@example.com", "amy@example.org", "eve@example.net"])
    matches = [text[slice(*hit.span)] for hit in family.hits(text)]
    assert matches == ["bob@example.com", "amy@example.org", "eve@example.net"]


# --- in a configuration ----------------------------------------------------------------------------------------------

RULES = 'policies: {default: {user: {"*": {rewrite: {at: 0.4, how: mask}}}, assistant: {"*": {}}}}\n'


def read(options: str, rules: str = RULES, *, more: str = "") -> Settings:
    """The settings with these options of a single guard."""
    text = f"version: 1\nguard:\n  family: pii\n  options: {options}\n{more}{rules}"
    return load_text(text, "f.yaml", {}, catalogue())


@pytest.mark.parametrize(
    ("options", "mistake"),
    [
        ("{entities: [mail]}", "4:23: guard.options.entities: unknown name 'mail'; use credit_card, crypto"),
        ("{entities: mail}", "4:23: guard.options.entities: must be a list of strings"),
        ("{countries: [uk, gb]}", "4:24: guard.options.countries: unknown name 'gb'; use de, uk, us, or another"),
        ("{entities: []}", "4:23: guard.options.entities: names nothing to look for; name entities or countries"),
        ("{phone_regions: [us]}", "4:28: guard.options.phone_regions: 'us' is no code of ISO 3166-1"),
        ("{names: [a]}", "4:13: guard.options.names: unknown option"),
    ],
)
def test_mistakes_have_their_place(options: str, mistake: str) -> None:
    """The first mistake, at its line and column."""
    with pytest.raises(ConfigError) as raised:
        read(options)
    assert raised.value.problems[0].removeprefix("f.yaml:").startswith(mistake)


@pytest.mark.parametrize("option", ["model: embedded", "threads: 2", "patterns: {a: {words: [b]}}", "languages: [en]"])
def test_options_of_models_have_no_effect(option: str) -> None:
    """It needs no model."""
    with pytest.raises(ConfigError, match="has no effect"):
        read("{}", more=f"  {option}\n")


@pytest.mark.parametrize(
    ("rule", "masks"),
    [
        ("user: {pii_email_address: {rewrite: {at: 0.5, how: mask}}}, assistant: {'*': {}}", True),
        ("assistant: {'*': {rewrite: {at: 0.5, how: mask}}}, user: {'*': {}}", True),
        ("unsafe: {rewrite: {at: 0.5, how: mask}}", False),
        ("user: {pii_mail: {rewrite: {at: 0.5, how: mask}}}, assistant: {'*': {}}", False),
    ],
)
def test_which_rules_can_mask(rule: str, masks: bool) -> None:
    """Those of categories of the guard; P(unsafe) is always 0."""
    rules = f"policies: {{default: {{{rule}}}}}\n"
    if masks:
        assert read("{}", rules)
        return
    with pytest.raises(ConfigError):
        read("{}", rules)


def test_what_the_pipeline_knows_of_it() -> None:
    """Places to mask, how long a match may be, and that there is no model."""
    settings = read("{entities: [email_address, credit_card]}")
    assert reaches(settings) == {"pii_email_address": Reach(unspaced=382), "pii_credit_card": Reach(20)}
    assert not traits(settings).has_model
    (hit,) = matches(settings)("to bob@example.com")
    assert (hit.category, hit.span) == ("pii_email_address", (3, 18))


@pytest.mark.parametrize(
    ("guard", "mistake"),
    [
        (
            "{cascade: {first: p, second: embedded, low: 0.1, high: 0.9}}",
            "2:26: guard.cascade.first: 'p' has no P(unsafe)",
        ),
        ("{all: [embedded, p], mean: {unsafe: [1, 1]}}", "2:44: guard.mean.unsafe: needs the weight 0 for 'p'"),
        ("{all: [embedded, p], mean: {violence_hate: [1, 0]}}", "2:35: guard.mean.unsafe: needs the weight 0 for 'p'"),
        ("{all: [embedded, p], mean: {unsafe: [1, 0]}}", None),
    ],
)
def test_its_p_unsafe_counts_nowhere(guard: str, mistake: str | None) -> None:
    """It is 0 for every text: in a cascade or a mean it would make harm look less likely."""
    text = f"version: 1\nguard: {guard}\nguards: {{p: {{family: pii}}}}\npolicies: {{default: {{preset: balanced}}}}\n"
    if mistake is None:
        load_text(text, "f.yaml", {}, catalogue())
        return
    with pytest.raises(ConfigError) as raised:
        load_text(text, "f.yaml", {}, catalogue())
    assert raised.value.problems[0].removeprefix("f.yaml:").startswith(mistake)


def test_a_phone_number_is_found_behind_a_run_of_digits_of_any_length() -> None:
    """phonenumbers itself gives up after 65,535 candidates that are no numbers."""
    junk = "1 " * 70_000
    (only,) = open_family(entities=["phone_number"], phone_regions=["DE"]).hits(f"{junk}; +49 30 901820 ")
    assert only.span == (len(junk) + 2, len(junk) + 15)


def test_more_digits_than_can_be_searched_are_a_failure() -> None:
    with pytest.raises(GuardUnavailable, match="200,000 characters"):
        open_family(entities=["phone_number"], phone_regions=["DE"]).hits("1 " * 102_000)
