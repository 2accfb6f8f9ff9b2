"""All tests: examples made by hypothesis may take their time, since machines that run tests are busy; and what tests
make is collected rarely, which saves a tenth of their time."""

from __future__ import annotations

import gc

from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
