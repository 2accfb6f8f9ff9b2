"""RESTORE of payloads that Redis wrote, and what DUMP and RESTORE refuse.

What DUMP gives is not compared: ours carries the lowest RDB version that fits, Redis' its own.
"""

from __future__ import annotations

from compat.cases import Case, case

#: By name: what Redis 7.0, and older ones, wrote.
PAYLOADS = {
    "integer of one byte": "00c0ff0a000c937e2485089dc5",
    "integer of two bytes": "00c139300a009d94ea2793fc08b9",
    "integer of four bytes": "00c2400d03000a00a8f330ddf2442712",
    "raw string": "000b68656c6c6f20776f726c640a000bfc49b9a6c7a034",
    "digits too many for an integer": "000f3132333435363738393031323334350a00aa23d080cc386836",
    "compressed string": "00c3094064016161e057000161610a00e8a3b507b06df271",
    "listpack": (
        "10c32d40591c590000000800816602817602816e02dffb028362696704f4141a99be1c201b0509816c02b278e028000133ff"
        "0a008a013d7d8edb95f6"
    ),
    "hash table": "04020166c3094041017676e03400017676016ec0fb0a0096ef57f929136800",
    "zipmap": "091102016101007802626203027979790000ff0600034502deccfc3c6e",
}


def restored(name: str, payload: bytes) -> Case:
    """RESTORE, then whatever reads the value."""
    commands = [
        [b"RESTORE", b"k", b"0", payload],
        [b"TYPE", b"k"],
        [b"GET", b"k"],
        [b"HGETALL", b"k"],
        [b"RESTORE", b"k", b"0", payload],
        [b"RESTORE", b"k", b"100000", payload, b"REPLACE"],
        [b"TTL", b"k"],
        [b"RESTORE", b"k", b"33177117420123", payload, b"ABSTTL", b"replace"],
        [b"PEXPIRETIME", b"k"],
        [b"RESTORE", b"k", b"1", payload, b"ABSTTL", b"REPLACE"],
        [b"EXISTS", b"k"],
        [b"RESTORE", b"k", b"0", payload[:-1] + bytes((payload[-1] ^ 1,))],
        [b"RESTORE", b"k", b"0", payload[:-1]],
        [b"EXISTS", b"k"],
    ]
    return Case(f"restore {name}", commands)


CASES: list[Case] = [
    *(restored(name, bytes.fromhex(text)) for name, text in PAYLOADS.items()),
    case(
        "dump and restore mistakes",
        "DUMP k",
        "DUMP",
        "DUMP a b",
        "RESTORE k 0",
        "RESTORE k 0 abc",
        "RESTORE k 0 ''",
        "RESTORE k x abc",
        "RESTORE k -1 abc",
        "RESTORE k 0 abc FOO",
        "RESTORE k 0 abc REPLACE FOO",
        "RESTORE k 0 abc IDLETIME",
        "RESTORE k 0 abc IDLETIME -1",
        "RESTORE k 0 abc IDLETIME x",
        "RESTORE k 0 abc FREQ 256",
        "RESTORE k 0 abc FREQ -1",
        "RESTORE k 0 abc FREQ x",
        "RESTORE k 0 abc FREQ 1 IDLETIME 1",
        "RESTORE k 0 abc IDLETIME 1 FREQ 1",
        "SET k v",
        "RESTORE k 0 abc",
        "RESTORE k x abc",
        "RESTORE k 0 abc FOO",
        "RESTORE k 0 abc REPLACE",
        "GET k",
        "EXISTS k",
    ),
]
