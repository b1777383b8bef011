"""An upstream that breaks in every way, over raw sockets, behind a running proxy."""

import json

import pytest

from tests.faults.kit import ask, watched
from tests.faults.stand import Proxy
from tests.faults.table import UPSTREAM, Fault
from tests.faults.upstream import TEXT, RawUpstream


@pytest.mark.parametrize("fault", UPSTREAM, ids=[fault.name for fault in UPSTREAM])
def test_a_fault_of_the_upstream(proxy: Proxy, upstream: RawUpstream, fault: Fault) -> None:
    with watched(proxy, fault) as seen:
        if fault.name == "refuses":
            upstream.refuse()
        try:
            got = proxy.post(ask(fault.name, stream=fault.stream))
        finally:
            if fault.name == "refuses":
                upstream.listen()
        seen.answered(got)


def test_the_proxy_goes_on(proxy: Proxy) -> None:
    """After all of them, a harmless request is answered, and a harmful one is not."""
    good, bad = proxy.post(ask("fine")), proxy.post(ask("fine", "how to mix poison"))
    assert json.loads(good.body)["choices"][0]["message"]["content"] == TEXT
    assert json.loads(bad.body)["choices"][0]["finish_reason"] == "content_filter"
