"""Keys that nobody can guess and values that nobody can forge, without the secret of the deployment.

Whoever reads the store sees digests in place of what was judged and named, so a guess of a text cannot be tested.
Whoever writes to it has no seal for a value, and none of another key's values fits.
"""

import json
from base64 import urlsafe_b64encode
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, Final

from guardproxy.ports import StateKind

_KEY_BYTES: Final = 24
_SEAL_BYTES: Final = 16
# The two uses of the secret have keys of their own; at most 16 bytes each.
_OF_KEYS: Final = b"guardproxy keys"
_OF_SEALS: Final = b"guardproxy seals"


class Sealer:
    """Makes the keys and the values of a store, with the `secret` that all processes of a deployment know.

    `namespace` stands at the beginning of every key. The digests are keyed BLAKE2b (RFC 7693).
    """

    def __init__(self, secret: str, namespace: str) -> None:
        self._namespace = namespace
        self._of_keys = blake2b(secret.encode(), digest_size=32, person=_OF_KEYS).digest()
        self._of_seals = blake2b(secret.encode(), digest_size=32, person=_OF_SEALS).digest()

    def key(self, kind: StateKind, of: bytes, key: bytes) -> bytes:
        """The key of a value in the store; `of` says whose it is, such as a guard's."""
        data = b"".join(len(part).to_bytes(4) + part for part in (kind.encode(), of, key))
        digest = blake2b(data, digest_size=_KEY_BYTES, key=self._of_keys).digest()
        return f"{self._namespace}:{kind}:".encode() + urlsafe_b64encode(digest)

    def seal(self, key: bytes, value: Any) -> bytes:
        """A JSON value as the store keeps it at a key: its seal, and the value."""
        data = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
        return self._seal_of(key, data) + data

    def unseal(self, key: bytes, sealed: bytes) -> Any:
        """The value that was sealed for this key. Raises ValueError for anything else."""
        seal, data = sealed[:_SEAL_BYTES], sealed[_SEAL_BYTES:]
        if not compare_digest(seal, self._seal_of(key, data)):
            raise ValueError("the value has not been sealed for this key")
        return json.loads(data)

    def _seal_of(self, key: bytes, data: bytes) -> bytes:
        return blake2b(len(key).to_bytes(4) + key + data, digest_size=_SEAL_BYTES, key=self._of_seals).digest()
