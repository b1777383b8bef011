"""Second opinions: another guard is asked about a stored record, for its reviewers."""

import asyncio
import time

from guardproxy.app.finders import personal_masking
from guardproxy.app.guards import guard, guard_name
from guardproxy.errors import ConfigError, GuardproxyError
from guardproxy.observe.records import masked_rationale
from guardproxy.reviews import Opinion
from guardproxy.settings import Settings
from guardproxy.sinks.database import Filter, ReviewStore, StoredRecord
from guardproxy.types import Check, Conversation, Message, Part

_MOST_TURNS = 60  # of the request, among which the question of a reply is looked for


class SecondOpinions:
    """Asks the guard that `audit.second_opinion` names, one record at a time, and stores what it says.

    Raises ConfigError if the settings name none.
    """

    def __init__(self, settings: Settings, data_dir: str | None = None) -> None:
        name = settings.audit.second_opinion
        if name is None:
            raise ConfigError(
                f"{settings.name}: audit.second_opinion is not set; write the name of a guard from `guards` there"
            )
        self._settings = settings.alone(name)
        self._data_dir = data_dir
        self._rule = settings.audit.text
        self._personal = personal_masking(settings)
        self._turn = asyncio.Lock()

    async def ask(self, store: ReviewStore, stored: StoredRecord, by: str) -> Opinion:
        """The opinion that `by` asks for, which is stored when this returns. The labels stay as they are.

        Raises GuardproxyError if the guard gives none, or if the record has no text that it could read; ValueError if
        the record was erased in the meantime.
        """
        if self._rule in ("hash", "none") or not stored.record.text.strip():
            raise GuardproxyError(
                f"record {stored.seq} has no text: it had none, it was erased, or audit.text ({self._rule}) does not "
                "keep it"
            )
        async with self._turn:  # a guard that runs here loads its model for each opinion
            opened = guard(self._settings, self._data_dir)
            await opened.start()
            try:
                verdict = await opened.judge(await _check_of(store, stored))
            finally:
                await opened.close()
        ranked = sorted(verdict.findings, key=lambda finding: -finding.probability)
        opinion = Opinion(
            record=stored.record.id,
            guard=guard_name(self._settings),
            taxonomy=verdict.taxonomy,
            by=by,
            time=time.time(),
            kind=verdict.kind,
            unsafe=verdict.unsafe,
            findings=tuple((finding.category, finding.probability) for finding in ranked),
            exact=stored.record.exact,
            rationale=masked_rationale(verdict.rationale, self._rule, self._personal),
        )
        await store.opine(opinion)
        return opinion


async def _check_of(store: ReviewStore, stored: StoredRecord) -> Check:
    """The stored text as a check; a reply stands behind the last user turn of its request, if its text is stored."""
    shown = stored.record
    messages = [Message(shown.side, (Part("text", shown.text),))]
    if shown.side == "assistant":
        rows = await store.query(Filter(request_id=shown.origin.request_id), _MOST_TURNS, newest_first=False)
        asked = [row.record.text for row in rows if row.record.side == "user" and row.record.text.strip()]
        messages = [Message("user", (Part("text", text),)) for text in asked[-1:]] + messages
    return Check(Conversation(tuple(messages)), shown.side)
