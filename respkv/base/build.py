"""How this copy of the program was built: as it is, or with its hot modules compiled (setup.py)."""

from __future__ import annotations

from respkv.base import slots


def is_compiled() -> bool:
    """Whether the hot modules run as a compiled extension. ``slots`` stands for all: they are compiled together."""
    return not (slots.__file__ or "").endswith(".py")
