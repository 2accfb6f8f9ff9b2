"""One world for each test of the event loop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.server.fake_node import World


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()
