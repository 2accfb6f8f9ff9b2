"""Seeded randomness: every pure room is handed a ``random.Random`` and never makes its own."""

from __future__ import annotations

import os
import random

Rng = random.Random


def seeded(seed: int) -> Rng:
    """A generator that repeats itself for one ``seed``."""
    return random.Random(seed)


def from_system() -> Rng:
    """A generator seeded from the operating system."""
    return random.Random(int.from_bytes(os.urandom(16), "big"))


def random_bytes(count: int) -> bytes:
    """``count`` bytes of the operating system's randomness, for identities and tokens."""
    return os.urandom(count)
