"""Requests one at a time, as tests like them."""

from __future__ import annotations

from typing import Any

from respkv.resp.request import RequestParser


def gets(parser: RequestParser) -> Any:
    """The next request, False when there is none. ``parser.check(argv, -1)`` then speaks of this one."""
    while requests := parser.take():
        parser.give_back(requests[1:], 1)
        if isinstance(requests[0], list):
            return requests[0]
        assert not parser.check(requests[0], -1)
    return False
