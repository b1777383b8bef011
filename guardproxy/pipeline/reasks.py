"""Re-asks: what a program sends after an answer that lacks the form it needs, and which question they belong to. Pure.

A re-ask asks nothing by itself. If its question is left out of the request, the model makes up an answer to nothing.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Final

from guardproxy.types import Message
from guardproxy.views import says_something

# A re-ask begins or ends with what it is about; between, it may quote errors and answers.
_HEAD, _TAIL = 300, 200  # characters

_ANSWER: Final = r"(?:response|output|answer|reply|completion|attempt|call|result)s?"
_LACKS: Final = r"(?:\bnot\b|n't\b|\bcannot\b|\bfail\w*|\binvalid\b|\bincorrect\w*|\bmalformed\b)"
_ITS_FORM: Final = r"(?:valid\w*|json|schema|format\w*|pars\w+|conform\w*|match\w*|satisf\w+|tool|function|structured?)"
_REASKS: Final = (
    r"^\W*(?:\d+ )?(?:validation|parsing|schema|format|json)[ _](?:errors?|feedback|fail\w+|invalid)\b",
    r"\brecall the function\b",
    rf"^\W*(?:please )?(?:fix|correct) your (?:\w+ )?(?:mistakes?|errors?|json|format|{_ANSWER})\b",
    r"\b(?:fix|correct) (?:the|these|all) (?:\w+ )?(?:errors?|mistakes?)\W+(?:and|then)? ?(?:try again|retry)\b",
    rf"^\W*(?:invalid|wrong|malformed) (?:json|format|{_ANSWER})[.:!]",
    r"\binvalid format:",
    r"\b(?:error|failure) parsing (?:the |your )?(?:llm|model) output\b",
    r"\bno (?:valid )?(?:tool|function) calls? (?:was |were )?found\b",
    r"\bnot (?:to )?repeat previous (?:errors|mistakes)\b",
    r"\bhelp me correct (?:the|this)\b",
    r"\bis invalid for the following reason",
    rf"\b(?:your|previous|last|above)\b[^.?!\n]{{0,40}}\b{_ANSWER}\b[^.?!\n]{{0,60}}{_LACKS}[^.?!\n]{{0,60}}\b{_ITS_FORM}\b",
    rf"\b(?:your|previous|last) (?:\w+ )?{_ANSWER} (?:was|is) (?:empty|invalid)\b",
    r"^\W*that (?:was|is)(?: not|n't) (?:a )?(?:valid|json|in the)\b",
    r"\b(?:must|did not|didn't|only by) (?:\w+ ){0,3}(?:us(?:e|ing)|call(?:ing)?) (?:\w+ ){0,3}(?:tool|function)s?\b",
    rf"\b{_ANSWER} in a (?:tool|function) call\b",
    r"^\W*please (?:call|use) (?:a|one of the) (?:tool|function)s?\b",
    rf"\btext {_ANSWER} (?:is|are) not (?:permitted|allowed)\b",
    r"\b(?:try again|retry)\b[^?]{0,80}\b(?:json|schema|format|tool|function|constraints)\b",
)
_REASK: Final = re.compile("|".join(_REASKS), re.IGNORECASE | re.MULTILINE)
# What a text about the form of an answer mentions, in whatever words and language.
_FORM: Final = re.compile(
    r"json|schema|pydantic|tool[ _]call|function[ _]call|try again|retry|\binvalid|\bvalidat|\bparse\b|\bformat error"
    r"|(?:wrong|correct|expected|required|requested) format",
    re.IGNORECASE,
)
# What complaints of an answer are made of. A text of which these words are a good part asks nothing.
_WORDS: Final = (
    r"again|redo|retry|repeat|rewrite|try|instead|once more|nope|fix(?:ed)?|correct(?:ly|ed|ion)?|wrong|incorrect\w*",
    r"incomplete|properly|not what|not there|fill in|absent|missing|missed|lacks?|requires?|required|mandatory|must",
    r"empty|blank|null|none|undefined|expect(?:ed|s|ing)?|errors?|mistakes?|fail\w*|outputs?|answers?|respond\w*",
    r"responses?|reply|results?|format\w*|fields?|types?|values?|propert(?:y|ies)|strings?|integers?|arrays?|objects?",
    r"keys?|parameters?|arguments?|tools?|functions?",
    r"noch ?mal\w*|noch einmal|erneut\w*|fehl\w+|felde?r?|leer\w*|falsch\w*|pflichtfeld\w*|antwort\w*|erwartet\w*",
    r"otra vez|de nuevo|int[eé]nt[aeo]\w*|corrig\w+|falta\w*|campos?|requerid\w+|obligat[oó]ri\w+|vac[ií][oa]s?",
    r"respuesta|encore|r[ée]ess\w+|manqu\w+|champs?|requis\w*|vides?|r[ée]pon\w+|attendu\w*|de novo|novamente|tent[ea]",
    r"vazi[oa]s?|resposta|di nuovo|ancora|riprova|mancant\w+|richiest\w+|vuot[oa]|rispost\w+",
    r"снова|повтор\w*|ошибк\w+|ответ\w*|пуст\w+|обязательн\w+|поле|поля",
)
_COMPLAINT: Final = re.compile(
    rf"\b(?:{'|'.join(_WORDS)})\b|再试|再試行|重试|重新|重做|もう一度|やり直|다시|缺少|字段|必填|必须|必須|필수|错误|エラー|오류",
    re.IGNORECASE,
)
_PER_WORD: Final = 60  # characters of a text for each such word, at most; half as many if it has a question mark
_NO_ANSWER: Final = frozenset(
    {"none", "null", "undefined", "empty", "no output", "no response", "no answer", "no content"}
)
# Whoever speaks of something of their own is a person.
_PERSON: Final = re.compile(r"\b(?:my|our)\b", re.IGNORECASE)


def question_starts(
    messages: Sequence[Message],
    starts: Sequence[int],
    refused: Iterable[int],
    own: Collection[str],
    *,
    form: bool,
    refusals: Collection[str] = (),
) -> list[int]:
    """The `starts` of turns, without those that ask nothing and follow a turn with a `refused` message.

    They belong to the question that was refused: they say nothing, have results of tools only, or are re-asks. With
    `form` the reply must follow a schema or call a tool, so that a model cannot ask back. Then a text behind a refusal
    of the proxy (`own`: the paths of its texts) is a re-ask already if it mentions the form of an answer, or complains.
    An answer that quotes one of the `refusals`, or stands for none, such as "None", counts as a refusal there: programs
    write down what they have got in their own way.
    """
    edges = [*starts, len(messages)]
    with_refused = {bisect_right(starts, index) - 1 for index in refused}
    found, goes_on = [], False
    for number, (start, stop) in enumerate(pairwise(edges)):
        behind_refusal = form and start > 0 and _stands_for_refusal(messages[start - 1], own, refusals)
        if goes_on and not asks(messages[start:stop], form=behind_refusal):
            continue
        found.append(start)
        goes_on = number in with_refused
    return found


def is_refusal(message: Message, own: Collection[str]) -> bool:
    """Whether the message is a text of the proxy; `own` are the paths of these."""
    return any(part.path in own for part in message.parts)


def _stands_for_refusal(message: Message, own: Collection[str], refusals: Collection[str]) -> bool:
    texts = [part.text for part in message.parts if part.kind != "opaque"]
    if is_refusal(message, own) or any(said in text for text in texts for said in refusals):
        return True
    return " ".join(texts).strip(" \n\"'.()<>[]").lower() in _NO_ANSWER


def asks(messages: Sequence[Message], *, form: bool) -> bool:
    """Whether the user asks something in these messages; `form` as in `is_reask`."""
    return any(_is_question(message, form=form) for message in messages if message.role == "user")


def quotes(messages: Sequence[Message], texts: Collection[str]) -> bool:
    """Whether the user quotes one of the texts in these messages."""
    return any(text in part.text for m in messages if m.role == "user" for part in m.parts for text in texts)


def _is_question(message: Message, *, form: bool) -> bool:
    texts = []
    for part in message.parts:
        if part.kind == "image" or (part.kind == "opaque" and part.note != "unknown field"):
            return True
        if part.kind != "tool_result" and says_something(part.text):
            texts.append(part.text)
    return bool(texts) and not is_reask("\n".join(texts), form=form)


def is_reask(text: str, *, form: bool = False) -> bool:
    """Whether a user's text only complains of the form of an answer. With `form`: of anything, or mentions a form."""
    text = text.strip()
    ends = text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]}\n{text[-_TAIL:]}"
    return bool(_REASK.search(ends) or (form and (_FORM.search(ends) or _complains(ends))))


def _complains(text: str) -> bool:
    """Whether words of complaints are a good part of the text."""
    if _PERSON.search(text):
        return False
    count = len(_COMPLAINT.findall(text))
    if "?" in text or "\uff1f" in text:
        return count > 1 and len(text) <= count * _PER_WORD // 2
    return len(text) <= count * _PER_WORD
