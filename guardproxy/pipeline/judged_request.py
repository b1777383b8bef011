"""All judged turns of one request: which are current, which are refused, and the texts that change. Pure."""

from collections.abc import Container, Iterable, Mapping, Sequence

from guardproxy.frozen import frozen
from guardproxy.languages.detect import languages_in
from guardproxy.pipeline.exchange import JudgedTurn
from guardproxy.pipeline.known_history import KnownHistory
from guardproxy.pipeline.turns import coverage_of, exchanges_of, texts_after
from guardproxy.policy import HistoryMode, Policy, language_note, worst
from guardproxy.types import Coverage, Decision, Edit, Message, Pass, Refuse, Replace, Steer


@frozen
class JudgedRequest:
    """The judged turns of a request in order, joined turns last; `new_texts` of rewritten parts by their path.

    `begins` are the indices at which the questions of the conversation begin (`reasks.question_starts`). `refusal` is
    that of a request that asks nothing, and only goes on from a refusal.
    `history`: what can be known of the messages before the current turn, if all their turns are known and passed.
    """

    turns: tuple[JudgedTurn, ...]
    new_texts: Mapping[str, str]
    begins: Sequence[int] = ()
    refusal: Refuse | None = None
    history: KnownHistory | None = None

    @property
    def current(self) -> tuple[JudgedTurn, ...]:
        """The turns whose decision applies to the whole request."""
        return tuple(judged for judged in self.turns if judged.turn.current)

    @property
    def current_changes(self) -> bool:
        """Whether a current turn is rewritten or refused."""
        return any(not isinstance(judged.outcome, Pass) for judged in self.current)

    @property
    def failed(self) -> bool:
        """Whether the guard was unavailable for any turn."""
        return any(judged.error for judged in self.turns)

    @property
    def to_record(self) -> tuple[JudgedTurn, ...]:
        """Current turns, and turns of the history that did not simply pass: their first request recorded the others."""
        return tuple(judged for judged in self.turns if judged.turn.current or judged.stands_out)

    @property
    def decision(self) -> Decision:
        """The most severe decision on a current turn."""
        return worst([judged.decision for judged in self.current])

    @property
    def edits(self) -> list[Edit]:
        """The edits of all rewritten parts."""
        return [Edit(path, text) for path, text in self.new_texts.items()]

    def refused(self, history: HistoryMode) -> tuple[Refuse, tuple[str, ...]] | None:
        """The refusal of the whole request, if any, and its categories: of a current turn first, or of the history.

        A refused turn of the history refuses the request only if `history` is "block".
        """
        refused = [judged for judged in self.turns if isinstance(judged.outcome, Refuse)]
        for judged in sorted(refused, key=lambda judged: not judged.turn.current):
            if isinstance(judged.outcome, Refuse) and (judged.turn.current or history == "block"):
                return judged.outcome, judged.decision.categories
        return (self.refusal, ()) if self.refusal else None

    def dropped(self, messages: Sequence[Message], history: HistoryMode) -> frozenset[int]:
        """The indices of messages to leave out: the exchanges of refused history turns, if `history` is "drop"."""
        if history != "drop":
            return frozenset()
        refused = [
            judged.turn.index for judged in self.turns if isinstance(judged.outcome, Refuse) and not judged.turn.current
        ]
        return exchanges_of(messages, refused, self.begins) if refused else frozenset()

    def judged_again(self, dropped: frozenset[int], again: "JudgedRequest") -> "JudgedRequest":
        """This request after all its turns except those in `dropped` were judged `again`."""
        kept = (judged for judged in self.turns if judged.turn.index in dropped)
        new = (judged for judged in again.turns if judged.turn.index not in dropped)
        return JudgedRequest((*kept, *new), again.new_texts, self.begins, self.refusal)

    def instruction(self, dropped: frozenset[int]) -> str:
        """The instructions for the model, each once; empty without any.

        One for a turn of the history counts as long as the turn is in the conversation: the client sends the turn
        without it.
        """
        kept = (judged.outcome for judged in self.turns if judged.turn.index not in dropped)
        return "\n\n".join(dict.fromkeys(outcome.instruction for outcome in kept if isinstance(outcome, Steer)))

    def categories(self, dropped: frozenset[int]) -> tuple[str, ...]:
        """The categories of the decision and of every turn that is dropped, rewritten or steered, each once."""
        changed = [
            judged
            for judged in self.turns
            if judged.turn.index in dropped or isinstance(judged.outcome, Replace | Steer)
        ]
        decisions = [self.decision, *(judged.decision for judged in changed)]
        return tuple(dict.fromkeys(category for decision in decisions for category in decision.categories))


def new_texts_of(judged: Iterable[JudgedTurn]) -> dict[str, str]:
    """The new text of each part that the outcomes replace, by its path."""
    texts: dict[str, str] = {}
    for judged_turn in judged:
        if isinstance(judged_turn.outcome, Replace):
            texts |= texts_after(judged_turn.turn.message, judged_turn.outcome)
    return texts


def undecoded_paths(judged: Iterable[JudgedTurn]) -> frozenset[str]:
    """The paths of the parts of every turn that has encodings that were not decoded."""
    return frozenset(part.path for turn in judged if turn.undecoded for part in turn.turn.message.parts)


def unread_parts(judged: Iterable[JudgedTurn]) -> dict[str, str]:
    """By path, the languages that the guard does not read, as a note: of each part in such a language.

    If no part of a turn has such a language by itself, the parts together or a view of them have: then it is all parts.
    """
    languages: dict[str, dict[str, None]] = {}
    for turn in judged:
        parts = [part for part in turn.turn.message.parts if turn.unread and part.text and part.kind != "opaque"]
        own = {part.path: [name for name in languages_in(part.text) if name in turn.unread] for part in parts}
        for path, names in own.items():
            if found := (names if any(own.values()) else turn.unread):
                languages.setdefault(path, {}).update(dict.fromkeys(found))
    return {path: language_note(tuple(names)) for path, names in languages.items()}


def covered(
    messages: Sequence[Message],
    policy: Policy,
    judged: Sequence[JudgedTurn],
    *,
    failed: bool,
    own: Container[str] = (),
    known: KnownHistory | None = None,
) -> tuple[frozenset[str], tuple[Coverage, ...]]:
    """The paths of the parts with encodings that were not decoded, and the coverage of all parts."""
    undecoded = undecoded_paths(judged)
    unread = unread_parts(judged)
    before, later = (known.coverage, messages[known.size :]) if known else ((), messages)
    coverage = coverage_of(later, policy, failed=failed, undecoded=undecoded, unread=unread, own=own)
    return undecoded, (*before, *coverage)
