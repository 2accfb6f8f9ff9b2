"""The frame of a table file: header, sealed sections, footer, and ``TableMeta``, which describes a table.

Layout (integers little-endian; also in docs/formats/sstable.md)::

    file    = header, block*, index, bloom, properties, footer
    header  = magic 8 "RKVTABLE" | version u32 | file id u64 | xxh3_64 of the 20 bytes before
    section = payload | codec u8 | xxh3_64 of payload and codec        (blocks, index, bloom, properties)
    footer  = index offset u64, len u64 | bloom offset u64, len u64 | properties offset u64, len u64
              | version u32 | file id u64 | xxh3_64 of the 60 bytes before | magic 8 "TABLERKV"

Every checksum is seeded with (file id << 40) + the offset of what it covers, so that a section that was
misplaced or copied from another table is not taken for a good one. Codec 0 is the payload as it is, 1 is
an lz4 block preceded by its uncompressed size u32.

Invariants: sections follow each other without a gap, so every byte of the file is under some checksum; a file
is written once, front to back, and never changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, NamedTuple

import lz4.block
from xxhash import xxh3_64_intdigest

from respkv.base.coding import U64, checksum
from respkv.base.errors import CorruptionError, FormatError

VERSION: Final = 1
HEADER_MAGIC: Final = b"RKVTABLE"
FOOTER_MAGIC: Final = b"TABLERKV"
RAW: Final = 0
LZ4: Final = 1

_HEADER: Final = Struct("<8sIQ")
HEADER_BYTES: Final = _HEADER.size + 8
_FOOTER: Final = Struct("<QQQQQQIQ")
FOOTER_BYTES: Final = _FOOTER.size + 16
TRAILER_BYTES: Final = 9
_SEED_MASK: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class TableMeta:
    """What is known about a table without reading it.

    ``min_stamp`` and ``max_stamp`` are the least and greatest stamps (10 bytes, at record[1:11]); both are
    empty when no record is long enough to carry one. ``tombstones`` counts records of type 0.
    """

    file_id: int
    size: int
    entries: int
    smallest: bytes
    largest: bytes
    min_stamp: bytes
    max_stamp: bytes
    tombstones: int

    def to_json(self) -> dict[str, Any]:
        """Plain data for manifests and job frames: numbers, and byte strings in hex."""
        return {
            "file_id": self.file_id,
            "size": self.size,
            "entries": self.entries,
            "smallest": self.smallest.hex(),
            "largest": self.largest.hex(),
            "min_stamp": self.min_stamp.hex(),
            "max_stamp": self.max_stamp.hex(),
            "tombstones": self.tombstones,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> TableMeta:
        """KeyError, TypeError or ValueError when ``data`` is not what ``to_json`` made."""
        return TableMeta(
            file_id=int(data["file_id"]),
            size=int(data["size"]),
            entries=int(data["entries"]),
            smallest=bytes.fromhex(data["smallest"]),
            largest=bytes.fromhex(data["largest"]),
            min_stamp=bytes.fromhex(data["min_stamp"]),
            max_stamp=bytes.fromhex(data["max_stamp"]),
            tombstones=int(data["tombstones"]),
        )


class Footer(NamedTuple):
    """Where the sections behind the blocks stand; lengths include the trailers."""

    index_offset: int
    index_bytes: int
    bloom_offset: int
    bloom_bytes: int
    properties_offset: int
    properties_bytes: int


def seed_of(file_id: int, offset: int) -> int:
    """The checksum seed of what stands at ``offset`` of the table ``file_id``."""
    return ((file_id << 40) + offset) & _SEED_MASK


def encode_header(file_id: int) -> bytes:
    """The first bytes of a table."""
    body = _HEADER.pack(HEADER_MAGIC, VERSION, file_id)
    return body + U64.pack(checksum(body, seed_of(file_id, 0)))


def check_header(data: bytes, file_id: int, path: str) -> None:
    """CorruptionError when ``data`` is not the header of ``file_id``, FormatError when it is too new."""
    if len(data) != HEADER_BYTES:
        raise CorruptionError(path, 0, "file too short for a table's header")
    magic, version, stored_id = _HEADER.unpack_from(data)
    if magic != HEADER_MAGIC or U64.unpack_from(data, _HEADER.size)[0] != checksum(
        data[: _HEADER.size], seed_of(file_id, 0)
    ):
        raise CorruptionError(path, 0, "bad table header")
    if version != VERSION:
        raise FormatError(f"{path}: table format version {version}, this program knows {VERSION}")
    if stored_id != file_id:
        raise CorruptionError(path, 0, f"this is table {stored_id}, not {file_id}")


def encode_footer(footer: Footer, file_id: int, offset: int) -> bytes:
    """The last bytes of a table, to stand at ``offset``."""
    body = _FOOTER.pack(*footer, VERSION, file_id)
    return body + U64.pack(checksum(body, seed_of(file_id, offset))) + FOOTER_MAGIC


def decode_footer(data: bytes, file_id: int, offset: int, path: str) -> Footer:
    """The footer that stands at ``offset``. CorruptionError as ``check_header``."""
    if len(data) != FOOTER_BYTES:
        raise CorruptionError(path, offset, "file too short for a table's footer")
    body = data[: _FOOTER.size]
    if data[-8:] != FOOTER_MAGIC or U64.unpack_from(data, _FOOTER.size)[0] != checksum(body, seed_of(file_id, offset)):
        raise CorruptionError(path, offset, "bad table footer")
    *handles, version, stored_id = _FOOTER.unpack(body)
    footer = Footer(*handles)
    if version != VERSION or stored_id != file_id:
        raise CorruptionError(path, offset, "footer and header disagree")
    if (
        footer.index_offset < HEADER_BYTES
        or footer.bloom_offset != footer.index_offset + footer.index_bytes
        or footer.properties_offset != footer.bloom_offset + footer.bloom_bytes
        or offset != footer.properties_offset + footer.properties_bytes
    ):
        raise CorruptionError(path, offset, "sections of the table do not follow each other")
    return footer


def seal(payload: bytes, file_id: int, offset: int, *, compress: bool) -> bytes:
    """The section that holds ``payload`` at ``offset``; compressed when that saves an eighth or more."""
    if compress:
        packed: bytes = lz4.block.compress(payload)
        if len(packed) <= len(payload) - (len(payload) >> 3):
            body = packed + b"\x01"
            return body + xxh3_64_intdigest(body, seed_of(file_id, offset)).to_bytes(8, "little")
    body = payload + b"\x00"
    return body + xxh3_64_intdigest(body, seed_of(file_id, offset)).to_bytes(8, "little")


def unseal(section: bytes, seed: int, path: str, offset: int) -> bytes:  # HOT: table_get
    """The payload of a section, verified, possibly with the section's trailer still behind it.

    The trailer is left where cutting it off would cost a copy; payloads know their own length.
    Raises CorruptionError.
    """
    stored = int.from_bytes(section[-8:], "little")
    if len(section) <= TRAILER_BYTES or xxh3_64_intdigest(section[:-8], seed) != stored:
        raise CorruptionError(path, offset, "checksum mismatch")
    codec = section[-9]
    if codec == RAW:
        return section
    if codec != LZ4:
        raise CorruptionError(path, offset, f"unknown codec {codec}")
    try:
        payload: bytes = lz4.block.decompress(memoryview(section)[:-TRAILER_BYTES])
    except lz4.block.LZ4BlockError as error:
        raise CorruptionError(path, offset, f"cannot decompress: {error}") from error
    return payload
