"""A container without bounds."""

from __future__ import annotations

from typing import Final


class Everything:
    """What contains everything."""

    __slots__ = ()

    def __contains__(self, prefix: object) -> bool:
        return True


EVERYTHING: Final = Everything()
