"""All tests: examples made by hypothesis may take their time, since machines that run tests are busy; and garbage is
collected between tests and seldom within one, which saves a tenth of their time: rings of nodes are large cycles."""

from __future__ import annotations

import gc
from time import process_time

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

_COLLECT_AFTER_S = 0.3
_collected_s = [0.0]


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    """A test is over."""
    if process_time() - _collected_s[0] > _COLLECT_AFTER_S:
        gc.collect()
        _collected_s[0] = process_time()
