"""The processes that the tests of faults share."""

from collections.abc import Iterator

import pytest

from tests.faults.stand import Proxy, Started, guard_process, proxy_process
from tests.faults.upstream import RawUpstream, raw_upstream


@pytest.fixture(scope="package")
def upstream() -> Iterator[RawUpstream]:
    """An upstream over raw sockets."""
    with raw_upstream() as listening:
        yield listening


@pytest.fixture(scope="package")
def guard() -> Iterator[Started]:
    """The guard's service."""
    with guard_process() as service:
        yield service


@pytest.fixture(scope="package")
def proxy(tmp_path_factory: pytest.TempPathFactory, upstream: RawUpstream, guard: Started) -> Iterator[Proxy]:
    """A proxy that has little patience."""
    with proxy_process(
        tmp_path_factory.mktemp("proxy"),
        upstream.url,
        guard.url,
        limits_of_upstream="timeouts: {connect_s: 0.5, first_byte_s: 1.5, between_chunks_s: 1.5, answer_s: 3}, "
        "retries: {attempts: 2}",
        limits="stream_bytes: 1000000, reply_bytes: 4000000",
        server="header_timeout_s: 1.5, body_timeout_s: 1.5, write_timeout_s: 1",
    ) as running:
        yield running
