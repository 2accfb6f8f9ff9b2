"""What operators may set about the answers of data commands.

Data handlers see a view and nothing else. One that depends on a directive says so in its row (``settings=True``);
the table hands it the ``Settings`` of its node as a third argument.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from respkv.config.store import ConfigStore

#: directive -> attribute
_FOLLOWED: Final = {
    "hash-max-listpack-entries": "hash_listpack_entries",
    "hash-max-listpack-value": "hash_listpack_bytes",
}


class Settings:
    """The values of one node, Redis' defaults until ``follow`` has been called."""

    __slots__ = ("hash_listpack_bytes", "hash_listpack_entries")

    def __init__(self) -> None:
        #: most fields of a hash that OBJECT ENCODING calls a listpack
        self.hash_listpack_entries = 512
        #: longest field or value of such a hash
        self.hash_listpack_bytes = 64

    def follow(self, config: ConfigStore) -> None:
        """Take the values of ``config``, now and whenever CONFIG SET changes them."""
        for directive, name in _FOLLOWED.items():
            self._set(name, config.value(directive))
            config.subscribe(directive, partial(self._set, name))

    def _set(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def __repr__(self) -> str:
        return f"<Settings {', '.join(f'{name}={getattr(self, name)}' for name in self.__slots__)}>"
