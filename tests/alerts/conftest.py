"""The databases of the tests of sinks."""

from tests.sinks.conftest import address, server

__all__ = ["address", "server"]
