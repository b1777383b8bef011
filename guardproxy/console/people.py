"""Who may use the page: people with keys and roles, and the sessions that they sign in to."""

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from itsdangerous import BadSignature, URLSafeSerializer, URLSafeTimedSerializer

ConsoleRole = Literal["read", "label", "admin"]
RANK: Final[Mapping[ConsoleRole, int]] = {"read": 0, "label": 1, "admin": 2}


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who may use the page. `digest` is the SHA-256 of the key in hex, empty for a person without a key."""

    name: str
    role: ConsoleRole
    digest: str = ""

    def may(self, role: ConsoleRole) -> bool:
        """Whether the person's role includes `role`."""
        return RANK[self.role] >= RANK[role]


LOCAL: Final = Person("local", "admin")
"""Whoever uses a page without keys, which only this machine reaches."""


@dataclass(frozen=True, slots=True)
class ConsoleSession:
    """A browser's session; `person` is None before the sign-in. `id` is random."""

    id: str
    person: Person | None


class People:
    """The people and their sessions. Without people, everybody is `LOCAL`.

    `secret` signs cookies and tokens: whoever knows it can be anybody. A session ends after `session_s` seconds, when
    its person is gone, or when the key has changed.
    """

    def __init__(self, people: Sequence[Person], secret: str, session_s: float) -> None:
        self._people = {person.name: person for person in people}
        self._sessions = URLSafeTimedSerializer(secret, salt="guardproxy.console.session")
        self._tokens = URLSafeSerializer(secret, salt="guardproxy.console.token")
        self.session_s = session_s

    @property
    def open(self) -> bool:
        """Whether nobody needs a key."""
        return not self._people

    def with_key(self, key: str) -> Person | None:
        """The person with this key. The time that it takes does not tell how much of the key is right."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        found = [person for person in self._people.values() if hmac.compare_digest(person.digest, digest)]
        return found[0] if found else None

    def new_session(self, person: Person | None = None) -> ConsoleSession:
        """A new session; signing in makes a new one, so that nobody can prepare a session for somebody else."""
        return ConsoleSession(secrets.token_urlsafe(18), LOCAL if self.open else person)

    def cookie(self, session: ConsoleSession) -> str:
        """The session as the value of a cookie, signed and with its time."""
        person = session.person
        return str(
            self._sessions.dumps([session.id, person.name, person.digest[:16]] if person else [session.id, "", ""])
        )

    def session(self, cookie: str) -> ConsoleSession | None:
        """The session of a cookie; None if the cookie is forged or too old. The person is None if the key is gone."""
        try:
            identity, name, digest = self._sessions.loads(cookie, max_age=int(self.session_s))
        except (BadSignature, ValueError):
            return None
        if self.open:
            return ConsoleSession(identity, LOCAL)
        person = self._people.get(name)
        return ConsoleSession(identity, person if person and person.digest[:16] == digest else None)

    def token(self, session: ConsoleSession) -> str:
        """The token that every form of the session sends back, so that no other page can send the form."""
        return str(self._tokens.dumps(session.id))

    def holds(self, session: ConsoleSession, token: str) -> bool:
        """Whether a token belongs to the session."""
        try:
            named = str(self._tokens.loads(token))
        except BadSignature:
            return False
        return hmac.compare_digest(named.encode(), session.id.encode())
