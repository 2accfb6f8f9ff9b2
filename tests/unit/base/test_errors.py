"""The exceptions carry what their catchers need."""

from __future__ import annotations

import pytest

from respkv.base import ids
from respkv.base.errors import (
    CommandError,
    CorruptionError,
    FormatError,
    ProtocolError,
    ReadMiss,
    RespkvError,
    StorageFull,
)


class Block:
    """A block request that does nothing."""

    def read(self) -> object:
        return None

    def install(self, block: object) -> None:
        assert block is None


def test_what_each_error_tells() -> None:
    assert CommandError(b"-ERR no\r\n").reply == b"-ERR no\r\n"
    broken = CorruptionError("/db/x", 42, "checksum")
    assert (broken.path, broken.offset, broken.reason) == ("/db/x", 42, "checksum")
    assert str(broken) == "/db/x: offset 42: checksum"
    block = Block()
    assert ReadMiss(block).request is block


@pytest.mark.parametrize("kind", [CommandError, CorruptionError, FormatError, ProtocolError, ReadMiss, StorageFull])
def test_all_have_one_base_and_no_two_are_taken_for_each_other(kind: type[RespkvError]) -> None:
    assert kind.__bases__ == (RespkvError,)
    assert not issubclass(kind, OSError)


def test_every_record_type_has_a_name() -> None:
    assert ids.TYPE_NAMES[ids.TOMBSTONE] == b"none"
    assert sorted(ids.TYPE_NAMES) == list(range(7))
    assert len(set(ids.TYPE_NAMES.values())) == 7
