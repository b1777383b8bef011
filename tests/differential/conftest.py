"""One proxy for each module of these tests."""

from collections.abc import Iterator

import pytest

from tests.differential.kit import Stand, standing


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with standing() as running:
        yield running
