"""Fixed-width integers and the checksum of every file and frame of ours.

Little-endian unless the name says ``be`` (big-endian is used where byte order must be sort order).
"""

from __future__ import annotations

import struct
from typing import Final

from xxhash import xxh3_64_intdigest

U16: Final = struct.Struct("<H")
U32: Final = struct.Struct("<I")
U64: Final = struct.Struct("<Q")
U16BE: Final = struct.Struct(">H")
U32BE: Final = struct.Struct(">I")
U64BE: Final = struct.Struct(">Q")


def checksum(data: bytes | bytearray | memoryview, seed: int = 0) -> int:
    """xxh3_64 of ``data``; ``seed`` binds the bytes to the place where they belong."""
    return xxh3_64_intdigest(data, seed & 0xFFFFFFFFFFFFFFFF)
