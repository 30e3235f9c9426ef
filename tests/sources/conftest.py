from collections.abc import Iterator

import pytest

from tests.sources.web import Web


@pytest.fixture
def web() -> Iterator[Web]:
    """A server of the loopback address."""
    with Web() as running:
        yield running
