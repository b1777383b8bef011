"""What all receivers of alerts have in common."""

from typing import Protocol

from guardproxy.alerting import AlertMessage


class NotTaken(Exception):
    """The receiver did not take a message. `refused`: it says that the message itself is wrong."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class AlertReceiver(Protocol):
    """Who is told. `place` names it in logs, without what may be secret in its address."""

    place: str

    async def send(self, message: AlertMessage) -> str:
        """Send a message once; return what came back, in a few words. Raises NotTaken."""

    async def close(self) -> None:
        """Close the connections."""
