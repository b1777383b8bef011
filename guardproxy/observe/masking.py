"""Masking for the audit and the logs: credentials and personal identifiers become placeholders such as `[email]`.

Masking changes the stored copy of a text, never the forwarded text. The action `redact` is a different thing: it
removes unsafe sentences from the text that the model or the client reads. The YAML value `audit.text: redacted` means
masking.

Every pass takes time linear in the text, on hostile input too: each pattern starts at the beginning of a run (a
lookbehind ensures it), uses possessive quantifiers, which do not backtrack, or is bounded.
"""

import base64
import binascii
import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Literal

TextRule = Literal["full", "redacted", "hash", "none"]

Span = tuple[int, int]

# --- credentials -----------------------------------------------------------------------------------------------------

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,60})-----.*?(?:-----END \1-----|\Z)", re.DOTALL)
_AUTHORIZATION = re.compile(
    r"\b(authorization[\"']{0,2}\s{0,3}[:=]\s{0,3}[\"']?(?:[A-Za-z]{1,20}\s{1,3})?)[^\s\"',;]++", re.IGNORECASE
)
_SCHEME = re.compile(r"\b(bearer|basic)(\s{1,20})([A-Za-z0-9._~+/=-]{8,}+)", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"((?:pass(?:word|wd|phrase)|pwd|(?:api|access|secret|private|auth|account|signing)[ _-]?key"
    r"|(?:access|auth|refresh|session|id|api)[_-]?token|client[_-]?secret)"
    r"[\"']{0,2}\s{0,3}(?:[:=]|=>|\bis\b)\s{0,3}[\"'`]?)([^\s\"'`,;&<>\[\]{}]{4,}+)",
    re.IGNORECASE,
)
_ASSIGNED_WORDS = ("pass", "pwd", "key", "token", "secret")
_USERINFO = re.compile(r"(://[^/\s:@]{0,200}:)[^/\s]{1,400}@")
_QUERY = re.compile(r"([?&](?:key|token|sig|signature|code|secret)=)([^\s&#\"'<>]{8,}+)", re.IGNORECASE)
_TOKEN = re.compile(r"(?<![A-Za-z0-9_.~+/=-])[A-Za-z0-9_.~+/=-]{16,}+")
# Key formats that issuers document or use: a prefix, then enough characters to distinguish a key from words.
_ISSUED = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-(?:proj|ant|svcacct|admin|or|live|test|None|lf)-[A-Za-z0-9_-]{16}"
    r"|[srpw][kh](?:-|_live_|_test_|sec_)[A-Za-z0-9]{20}"
    r"|gh[pousr]_[A-Za-z0-9]{20}|github_pat_[A-Za-z0-9_]{20}|glpat-[A-Za-z0-9_-]{16}"
    r"|xox[abceoprs]-[A-Za-z0-9-]{10}|(?:AKIA|ASIA|ABIA|ACCA|AIDA|AROA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{30}"
    r"|hf_[A-Za-z0-9]{20}|npm_[A-Za-z0-9]{20}|pypi-[A-Za-z0-9_-]{20}|ya29\.[A-Za-z0-9_-]{16}"
    r"|SG\.[A-Za-z0-9_-]{16}|do[opr]_v1_[a-f0-9]{20}|(?:gsk|xai|nvapi|r8|tgp_v1|pplx)[-_][A-Za-z0-9_-]{20}"
    r")"
)
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{5,}+\.[A-Za-z0-9_-]{5,}+\.")
_HEX = re.compile(r"(?<![0-9A-Za-z])[0-9a-fA-F]{32,}+(?![0-9A-Za-z])")
_UUID = re.compile(r"(?<![0-9A-Za-z])[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}(?![0-9A-Za-z])")
_RANDOM_RUN = re.compile(r"[A-Za-z0-9+/=_-]{24,}+")
_SEGMENT = re.compile(r"[A-Za-z0-9]{6,}+")
_CHANGE = re.compile(r"(?<=[a-z])[A-Z]|(?<=[A-Za-z])[0-9]|(?<=[0-9])[A-Za-z]")
_WINDOW, _MIN_CHANGES = 24, 6


def _looks_random(run: str) -> bool:
    """Whether lower case, upper case and digits alternate as in a random string, not as in a name.

    Words and model names change between lower case, upper case and digits a few times. 24 characters drawn at random
    from 62 have ten changes on average; fewer than six are rare (about one string in forty, fewer in longer strings).
    """
    rest = _UUID.sub("-", run)
    if any(any(c.isdigit() for c in m) and any(c.isalpha() for c in m) for m in _HEX.findall(rest)):
        return True
    joined = "-".join(_SEGMENT.findall(rest))
    if len(joined) < 16 or not any(c.isdigit() for c in joined):  # names in camel case have no digits
        return False
    changes = [match.start() for match in _CHANGE.finditer(joined)]
    return any(late - early < _WINDOW for early, late in zip(changes, changes[_MIN_CHANGES - 1 :], strict=False))


def _masked_token(match: re.Match[str], *, guess: bool) -> str:
    token = match.group()
    matches: list[tuple[int, str]] = []
    if issued := _ISSUED.search(token):
        matches.append((issued.start(), "[api key]"))
    jwt = token.find("eyJ")
    if jwt >= 0 and _JWT.match(token, jwt):
        matches.append((jwt, "[jwt]"))
    if matches:  # the earliest match: a JWT's signature may look like a key
        start, placeholder = min(matches)
        return token[:start] + placeholder + token[len(token.rstrip(".")) :]
    if not guess:
        return token
    return _RANDOM_RUN.sub(lambda run: "[secret]" if _looks_random(run.group()) else run.group(), token)


def _masked_scheme(match: re.Match[str]) -> str:
    scheme, space, value = match.groups()
    if scheme.lower() == "bearer":
        secret = len(value) >= 20 or any(c.isdigit() for c in value)
    else:
        secret = _is_user_and_password(value)
    return f"{scheme}{space}[credentials]" if secret else match.group()


def _is_user_and_password(value: str) -> bool:
    try:
        return b":" in base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return False


def mask_credentials(text: str, *, guess: bool = True) -> str:
    """Mask keys, tokens and passwords in `text`.

    With `guess`, mask long strings that look random as well; without, only credentials of a known format.
    """
    assigns = ":" in text or "=" in text or " is " in text
    if len(text) < 16 and not assigns:
        return text  # the shortest token has 16 characters
    if "-----BEGIN " in text:
        text = _PEM.sub("[private key]", text)
    lowered = text.lower()
    if "authorization" in lowered:
        text = _AUTHORIZATION.sub(r"\1[credentials]", text)
    if "bearer" in lowered or "basic" in lowered:
        text = _SCHEME.sub(_masked_scheme, text)
    if assigns:
        text = _USERINFO.sub(r"\1[password]@", text)
        # Looking for the words first is far cheaper than running the pattern, and most texts have none of them.
        if any(word in lowered for word in _ASSIGNED_WORDS):
            text = _ASSIGNED.sub(_masked_assignment, text)
        if "?" in text or "&" in text:
            text = _QUERY.sub(r"\1[secret]", text)
    return _TOKEN.sub(lambda match: _masked_token(match, guess=guess), text)


def _masked_assignment(match: re.Match[str]) -> str:
    name, value = match.groups()
    # "my password is wrong" has no password in it; "my password is hunter2" has.
    if re.search(r"\bis\s{0,3}[\"'`]?\Z", name, re.IGNORECASE) and value.rstrip(".!?").isalpha():
        return match.group()
    return f"{name}[password]"


# --- personal identifiers --------------------------------------------------------------------------------------------

_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]++@[\w-]++(?:\.[\w-]++)+")
_IBAN_HEAD = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?=[ -]?[A-Za-z0-9])")
_IBAN_GROUP = re.compile(r"[ -]?[A-Za-z0-9]{1,4}(?![A-Za-z0-9])|[ -]?[A-Za-z0-9]{4}")
_BASE36 = {ord(c): str(int(c, 36)) for c in "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_CARD_RUN = re.compile(r"(?<!\d)\d{3,19}(?:[ .-]\d{3,19})*+(?!\d)")
_DIGITS = re.compile(r"\d+")
_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_IPV4 = re.compile(rf"(?<![\w.])(?:{_OCTET}\.){{3}}{_OCTET}(?!\w|\.\d)")
_IPV6 = re.compile(
    rf"(?<![\w:.])(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}(?:(?:{_OCTET}\.){{3}}{_OCTET}|[0-9A-Fa-f]{{0,4}})(?![\w:])"
)
_PHONE = re.compile(
    r"(?<![\w+])(?:\+|00)[1-9](?:[ ()./-]{0,3}\d){6,14}(?!\d)"  # international
    r"|(?<![\w.])\(?0\d(?:[ ()/-]{0,2}\d){7,10}(?!\d)"  # national, with the trunk prefix 0
    r"|(?<![\w.])\(?\d{3}\)?[ .-]?\d{3}[ .-]\d{4}(?!\d)"  # North American
)
# What a text has if it has one of these; most have none. A pattern that begins with a digit is searched for quickly,
# one that begins with a lookbehind is not. A card or phone number has seven digits close to each other.
_HAS_NUMBER = re.compile(r"\d(?:[ ()./-]{0,3}\d){6}")
_HAS_IBAN = re.compile(r"\d\d(?<=[A-Za-z]{2}\d\d)[ -]?[A-Za-z0-9]")
_HAS_IPV6 = re.compile(r":[0-9A-Fa-f]{0,4}:")
_HAS_IPV4 = re.compile(r"\d\.\d{1,3}\.\d")


def _luhn(digits: str) -> bool:
    """Whether the digits pass the Luhn check of ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _cards(text: str) -> Iterator[Span]:
    """Yield spans of 13 to 19 digits that pass the Luhn check. A span begins and ends at a group of digits."""
    for run in _CARD_RUN.finditer(text):
        groups = [match.span() for match in _DIGITS.finditer(text, run.start(), run.end())]
        skip = -1
        for first, (start, _) in enumerate(groups):
            if start < skip or int(text[start]) not in range(2, 7):
                continue
            end = _card_end(text, groups, first)
            if end:
                skip = end
                yield start, end


def _card_end(text: str, groups: list[Span], first: int) -> int:
    digits = ""
    for start, end in groups[first : first + 7]:  # groups have three digits or more
        digits += text[start:end]
        if len(digits) > 19:
            break
        if len(digits) >= 13 and _luhn(digits):
            return end
    return 0


def _ibans(text: str) -> Iterator[Span]:
    """Yield spans that pass the check of ISO 13616: 1 modulo 97 with the first four characters moved to the end."""
    for head in _IBAN_HEAD.finditer(text):
        candidates = []
        bare, end = head.group(), head.end()
        while len(bare) < 34 and (group := _IBAN_GROUP.match(text, end)):
            size, end = len(bare), group.end()
            bare += group.group().lstrip(" -")
            if not text[end : end + 1].isalnum():
                candidates.append((bare, end))
            if len(bare) < size + 4:
                break  # only the last group may be shorter
        for bare, end in reversed(candidates):
            if 15 <= len(bare) <= 34 and int((bare[4:] + bare[:4]).translate(_BASE36)) % 97 == 1:
                yield head.start(), end
                break


def _masked_ipv6(match: re.Match[str]) -> str:
    text = match.group()
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return text
    # `::` and names in code such as `add::face` are valid addresses, so an address without a digit is not masked.
    return "[ip]" if any(c.isdigit() for c in text) else text


def _replace_spans(text: str, find: Callable[[str], Iterator[Span]], placeholder: str) -> str:
    pieces, at = [], 0
    for start, end in find(text):
        if start >= at:
            pieces += [text[at:start], placeholder]
            at = end
    return "".join([*pieces, text[at:]]) if pieces else text


def mask_emails(text: str) -> str:
    """Mask e-mail addresses in `text`."""
    return _EMAIL.sub("[email]", text) if "@" in text else text


def mask_personal_data(text: str, *, addresses: bool = True) -> str:
    """Mask credentials, e-mail addresses, phone, card and bank account numbers and IP addresses in `text`.

    Names, postal addresses and the subject stay, because a reviewer must be able to understand the text. Without
    `addresses`, IP addresses stay as well.
    """
    text = mask_emails(mask_credentials(text))
    if not _DIGITS.search(text):
        return text
    if _HAS_IBAN.search(text):
        text = _replace_spans(text, _ibans, "[iban]")
    if _HAS_NUMBER.search(text):
        text = _replace_spans(text, _cards, "[card]")
    if addresses and _HAS_IPV6.search(text):
        text = _IPV6.sub(_masked_ipv6, text)
    if addresses and _HAS_IPV4.search(text):
        text = _IPV4.sub("[ip]", text)
    return _PHONE.sub("[phone]", text) if _HAS_NUMBER.search(text) else text


def apply_text_rule(text: str, rule: TextRule) -> str:
    """Return the text to store: `full` masks credentials, `redacted` personal data too, `hash` gives SHA-256 in hex.

    `none` gives the empty string.
    """
    if rule == "full":
        return mask_credentials(text)
    if rule == "redacted":
        return mask_personal_data(text)
    if rule == "hash":
        return text_hash(text)
    return ""


def text_hash(text: str) -> str:
    """The SHA-256 of a text, in hex, as records hold it in place of the text."""
    # UTF-8 has no lone surrogates. They must neither fail nor give two texts the same hash.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


INFERRED = "inferred-"
"""How the sessions begin, before a `short_hash`, that no request has named."""


def short_hash(value: bytes) -> str:
    """The first 16 hex digits of the SHA-256, as records name clients, end users and sessions."""
    return hashlib.sha256(value).hexdigest()[:16]
