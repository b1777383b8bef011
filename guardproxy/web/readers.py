"""Whom a refusal is for: its message depends on where the client is, if the policy has several."""

from dataclasses import replace
from typing import Final

from guardproxy.localtext import reader_of
from guardproxy.policy import Policy
from guardproxy.web.headers import Headers, first

_MOST: Final = 1000  # policies that are kept: each has as many places as its messages


class LocalPolicies:
    """Gives each request its policy with the messages of its place; the same object for the same place.

    What is known of earlier turns is kept for a policy object (`pipeline.known_turns`).
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, tuple[str, ...]], tuple[Policy, Policy]] = {}

    def of(self, policy: Policy, headers: Headers) -> Policy:
        """The policy for a request with these headers."""
        block = policy.block
        if not block.local:
            return policy
        accepted = first(headers, b"accept-language").decode("latin-1")
        named = first(headers, block.place_header.encode("latin-1")).decode("latin-1") if block.place_header else ""
        places = block.places(reader_of(accepted, named))
        key = (id(policy), places)
        kept = self._kept.get(key)
        if kept is None or kept[0] is not policy:  # after a reload, another policy may have the same id
            if len(self._kept) >= _MOST:
                self._kept.clear()
            kept = self._kept[key] = policy, replace(policy, block=block.at(places))
        return kept[1]
