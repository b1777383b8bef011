"""The clients of the settings, and where their limits are counted."""

import os

from guardproxy.access import Clients
from guardproxy.settings import Settings
from guardproxy.web.access import Access
from guardproxy.web.buckets import SharedBuckets
from guardproxy.web.visitors import is_loopback

OPEN = "whoever reaches the address, without a key"
"""Who is served if `serves_anybody`."""


def open_access(settings: Settings, shared: str | None) -> Access:
    """The check of clients. `shared` is the folder in which all workers count, None if there is only this process."""
    access = Access(SharedBuckets(shared) if shared else None)
    access.clients = clients_of(settings)
    return access


def clients_of(settings: Settings) -> Clients | None:
    """The clients of the settings; None if there is no such section, and everybody is served."""
    return None if settings.clients is None else Clients(settings.clients, os.urandom(32))


def serves_anybody(settings: Settings) -> bool:
    """Whether other machines reach the server, and none of them needs a key or a certificate."""
    server = settings.server
    certified = server.tls is not None and server.tls.client_ca is not None
    return settings.clients is None and not certified and not is_loopback(server.host)
