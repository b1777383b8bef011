"""The keys of a store: one for its chain, others to encrypt what may quote a client."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from guardproxy.errors import ConfigError
from guardproxy.sinks.database.sealed import Parts

# Every token of Fernet begins so, because its version and its time do; other parts begin with hex digits.
_BEGIN = "gAAAA"


@dataclass(frozen=True, slots=True)
class StoreKeys:
    """The keys as the configuration or the environment has them.

    `chain` is that of the chain. `encrypt` are keys of Fernet: the first one encrypts, each may decrypt.
    """

    chain: str | None = field(default=None, repr=False)
    encrypt: tuple[str, ...] = field(default=(), repr=False)


class ChainKey:
    """The secret key of the hashes of rows: without it nobody can compute the chain again. Raises ConfigError."""

    def __init__(self, key: str) -> None:
        if len(key) < 32:
            raise ConfigError(
                "a key of the audit chain has at least 32 characters: make one with `openssl rand -hex 32`"
            )
        self._key = key.encode()
        self.id = self.hash("guardproxy audit chain")[:16]  # tells keys apart, without saying anything of them

    def hash(self, text: str) -> str:
        """Return the HMAC-SHA-256 of a text, in hex."""
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


class PartsCipher:
    """Encrypts sealed parts with the first of `keys` (of Fernet), and decrypts them with any of them.

    Without keys, parts stay as they are. Raises ConfigError for a malformed key.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys]) if keys else None
        except ValueError:
            raise ConfigError(f"a key to encrypt the audit store is malformed: {HOW_TO_MAKE}") from None
        self.encrypts = bool(keys)

    def closed(self, part: str) -> str:
        """Return the part as the database holds it."""
        return self._fernet.encrypt(part.encode()).decode() if self._fernet else part

    def opened(self, held: str, row: int) -> str:
        """Return the part that the database holds in this row so. Raises ConfigError if no key fits."""
        if not is_encrypted(held):
            return held
        where = "with --config FILE or in the environment variable GUARDPROXY_AUDIT_KEY"
        if self._fernet is None:
            raise ConfigError(f"the audit store is encrypted (row {row}): give its key {where}")
        try:
            return self._fernet.decrypt(held).decode()
        except InvalidToken:
            raise ConfigError(
                f"row {row} of the audit store is encrypted with another key, or was changed: give the key that it was "
                f"written with {where}; several keys have a comma between them"
            ) from None


HOW_TO_MAKE = (
    "make one with `python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'`"
)


def is_encrypted(held: str) -> bool:
    """Return whether the database holds a part in encrypted form."""
    return held.startswith(_BEGIN)


def opened_parts(row: Any, cipher: PartsCipher) -> Parts:
    """Return the sealed parts of a row of `guardproxy_records`. Raises ConfigError if no key fits."""
    held = (row.sealed_text, row.sealed_quotes)
    return Parts(*(part if part is None else cipher.opened(part, row.seq) for part in held))
