"""Alerts posted to an address, signed as Standard Webhooks says."""

import asyncio
import base64
import hashlib
import hmac
import ssl
import time
from collections.abc import Callable
from typing import Final, Literal
from urllib.parse import urlsplit

import httpx

from guardproxy.alerting import AlertMessage
from guardproxy.observe.alerts.formats import json_body, ocsf_body, slack_body
from guardproxy.observe.alerts.receivers import NotTaken

WebhookFormat = Literal["json", "slack", "ocsf"]

_BODIES: Final = {"json": json_body, "slack": slack_body, "ocsf": ocsf_body}
# The message is wrong, and will be so the next time. Any other status may be another one later: a wrong key is mended.
_REFUSED: Final = frozenset({400, 413, 422})


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: version 1, HMAC-SHA256 of id, time and body.

    `secret` is base64, also behind `whsec_`; `timestamp` is in seconds since 1970.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


class WebhookReceiver:
    """An address that takes messages by POST. Without `secret`, messages are not signed.

    The id of a message (`webhook-id`) is the same whenever it is sent again; the time and the signature are new.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | None,
        form: WebhookFormat,
        text: bool,
        timeout_s: float,
        tls: ssl.SSLContext,
        clock: Callable[[], float] = time.time,
    ) -> None:
        parts = urlsplit(url)
        self.place = f"{parts.scheme}://{parts.netloc}"  # the path may hold a secret
        self._url = url
        self._secret = secret
        self._body = _BODIES[form]
        self._text = text
        self._clock = clock
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(timeout=timeout_s, verify=tls, trust_env=False)

    async def send(self, message: AlertMessage) -> str:
        """Post a message once; return the status. Raises NotTaken for any status but 2xx, and for a failure."""
        body = self._body(message, text=self._text)
        headers = {"content-type": "application/json", "user-agent": "guardproxy", "webhook-id": message.id}
        if self._secret is not None:
            timestamp = int(self._clock())
            headers["webhook-timestamp"] = str(timestamp)
            headers["webhook-signature"] = signature(self._secret, message.id, timestamp, body)
        try:
            # The answer's body is not read: only its status counts. httpx's own time-out is that of a single read.
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream("POST", self._url, content=body, headers=headers) as answer,
            ):
                status = answer.status_code
        except TimeoutError:
            raise NotTaken(f"{self.place}: no answer within {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # the latter two: a host that can be no name
            # The error's own text may quote the address.
            raise NotTaken(f"{self.place}: {type(error).__name__}") from None
        if 200 <= status < 300:
            return f"HTTP {status}"
        raise NotTaken(f"{self.place}: HTTP {status}", refused=status in _REFUSED)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
