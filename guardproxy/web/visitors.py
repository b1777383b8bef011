"""Which pages in a browser may call the proxy: checks of the headers Host and Origin.

A page from elsewhere can send requests to a server that only the browser's machine reaches. By DNS rebinding it can
even read the answers: its own host name then resolves to the server's address, and the browser takes both for the same
origin. Programs other than browsers send no Origin, so the check of it never concerns them.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final, Literal

from guardproxy.errors import GuardproxyError

_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:\[\]/@]+)(?::[0-9]{0,5})?")
_ORIGIN: Final = re.compile(r"https?://(\[[0-9a-f:.]+\]|[^\s:\[\]/@]+)(?::[0-9]{1,5})?")
_LOCAL: Final = "localhost"


class HostNotServed(GuardproxyError):
    """The request names a host that is not among `server.hosts`."""

    status = 421
    code = "host_not_served"


class OriginRefused(GuardproxyError):
    """A page from elsewhere calls the proxy, and `server.origins` does not list its origin."""

    status = 403
    code = "origin_not_allowed"


class Visitors:
    """Checks the host that a request names, and the origin of the page that sends it.

    `hosts` are patterns of host names, None for any name. IP addresses and localhost are always served: a page from
    elsewhere has neither as its host. `origins` are patterns of origins whose pages may call the proxy beside those of
    its own host. With `loopback` the proxy listens on this machine only, so that without `hosts` no other name is known
    to be its own, and a page of such a name is a page from elsewhere. `section` is the configuration's, for errors.
    """

    def __init__(
        self,
        hosts: Sequence[str] | None = None,
        origins: Sequence[str] = (),
        *,
        loopback: bool = False,
        section: Literal["server", "admin"] = "server",
    ) -> None:
        self._section = section
        self._hosts = None if hosts is None else [_name(pattern) for pattern in hosts]
        self._origins = [pattern.casefold().rstrip("/") for pattern in origins]
        self._own_names = self._hosts if self._hosts is not None else ([] if loopback else ["*"])

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raises HostNotServed or OriginRefused. All names in `headers` are in lower case."""
        hosts, origins = [], []
        for name, value in headers:
            if name == b"host":
                hosts.append(value.decode("latin-1"))
            elif name == b"origin":
                origins.append(value.decode("latin-1"))
        host = _host_of(hosts[0]) if len(hosts) == 1 else ""
        if len(hosts) > 1:
            raise HostNotServed("the request has several Host headers; send one")
        if self._hosts is not None and not _serves(self._hosts, host):
            raise HostNotServed(
                f"this server does not serve the host that the request names; see {self._section}.hosts"
            )
        if origins and not (len(origins) == 1 and self._admits(origins[0], host)):
            advice = "; the operator lists them in server.origins" if self._section == "server" else ""
            raise OriginRefused(f"pages of another origin may not call this server{advice}")

    def _admits(self, origin: str, host: str) -> bool:
        origin = origin.strip().casefold()
        if any(fnmatchcase(origin, pattern) for pattern in self._origins):
            return True
        match = _ORIGIN.fullmatch(origin)
        page = _name(match[1]) if match else ""
        if not page or not _serves(self._own_names, page):
            return False
        return page == host or (_is_this_machine(page) and _is_this_machine(host))


def _host_of(value: str) -> str:
    """The host in a Host header, without its port; empty if it is malformed."""
    match = _HOST.fullmatch(value.strip().casefold())
    return _name(match[1]) if match else ""


def _name(host: str) -> str:
    return host.casefold().removesuffix(".")


def _serves(patterns: Sequence[str], host: str) -> bool:
    """Whether a host is an IP address, localhost, or matches a pattern."""
    if not host:
        return False
    if host == _LOCAL or host.endswith("." + _LOCAL) or _address(host) is not None:
        return True
    return any(fnmatchcase(host, pattern) for pattern in patterns)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_this_machine(host: str) -> bool:
    address = _address(host)
    return host == _LOCAL or host.endswith("." + _LOCAL) or (address is not None and address.is_loopback)


def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host` is reached from its own machine only."""
    return _is_this_machine(_name(host))
