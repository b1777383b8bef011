"""Whom a text of the policy is for: refusals and instructions depend on where the client is, if there are several."""

from dataclasses import replace
from typing import Final

from guardproxy.localtext import at, places, reader_of
from guardproxy.policy import Policy
from guardproxy.web.headers import Headers, first

_MOST: Final = 1000  # policies that are kept: each has as many places as its messages


class LocalPolicies:
    """Gives each request its policy with the texts of its place; the same object for the same place.

    What is known of earlier turns is kept for a policy object (`pipeline.known_turns`).
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, tuple[str, ...]], tuple[Policy, Policy]] = {}

    def of(self, policy: Policy, headers: Headers) -> Policy:
        """The policy for a request with these headers."""
        block, rewrite = policy.block, policy.rewrite
        if not block.local and not rewrite.instructions:
            return policy
        accepted = first(headers, b"accept-language").decode("latin-1")
        named = first(headers, block.place_header.encode("latin-1")).decode("latin-1") if block.place_header else ""
        reader = reader_of(accepted, named)
        messages, instructions = places(block.local, reader), places(rewrite.instructions, reader)
        key = (id(policy), (*messages, *instructions))
        kept = self._kept.get(key)
        if kept is None or kept[0] is not policy:  # after a reload, another policy may have the same id
            if len(self._kept) >= _MOST:
                self._kept.clear()
            block = replace(block, local=at(block.local, messages))
            rewrite = replace(rewrite, instructions=at(rewrite.instructions, instructions))
            kept = self._kept[key] = policy, replace(policy, block=block, rewrite=rewrite)
        return kept[1]
