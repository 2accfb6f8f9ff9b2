"""Containers as records: the stored bytes, every malformed form, joining records of any form, tokens."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from respkv.base.errors import CorruptionError
from respkv.base.ids import HASH, STRING, TOMBSTONE
from respkv.causality import record, siblings
from respkv.causality.dvv import EMPTY, Container, Sibling, drop_expired, make_actor, merge
from respkv.causality.hlc import STAMP_BYTES, pack_stamp
from respkv.env.rng import seeded

GOLDEN = Path(__file__).parent / "golden" / "dvv-1.txt"
MS = 1_700_000_000_000
A, B, C = make_actor(1, 5), make_actor(2, 0), make_actor(3, 0xFFFFFFFFFFFF)


def hlc(number: int) -> int:
    return (MS << 16) + number


#: One of each form, by the name it has in the golden file.
FORMS = {
    "one value": Container({A: hlc(1)}, (Sibling(hlc(1), A, 0, b"value"),)),
    "empty value": Container({A: hlc(1)}, (Sibling(hlc(1), A, 0, b""),)),
    "deletion": Container({A: hlc(1), B: hlc(2)}, (Sibling(hlc(2), B, 0, None),)),
    "value that expires": Container({A: hlc(1)}, (Sibling(hlc(1), A, MS + 9, b"value"),)),
    "its expired form": Container({A: hlc(1)}, (Sibling(hlc(1), A, MS + 9, None),)),
    "four siblings": Container(
        {A: hlc(7), B: hlc(6), C: hlc(9)},
        (
            Sibling(hlc(9), C, 0, None),
            Sibling(hlc(7), A, MS + 5, b"seven"),
            Sibling(hlc(6), B, 0, b"six"),
            Sibling(hlc(4), A, MS + 1, None),
        ),
    ),
}


def golden() -> dict[str, bytes]:
    lines = [line.split(" | ") for line in GOLDEN.read_text().splitlines() if not line.startswith("#")]
    return {name: bytes.fromhex(text) for name, text in lines}


def test_what_is_written_are_the_golden_bytes() -> None:
    assert {name: siblings.encode(container) for name, container in FORMS.items()} == golden()


def test_the_golden_bytes_are_read_as_what_they_were() -> None:
    assert {name: siblings.decode(data) for name, data in golden().items()} == FORMS


@pytest.mark.parametrize("name", FORMS)
def test_head_and_body_agree(name: str) -> None:
    container, data = FORMS[name], siblings.encode(FORMS[name])
    container.check_invariants()
    assert siblings.is_container(data)
    assert record.kind_of(data) == (STRING if "value" in name or "four" in name else TOMBSTONE)
    assert record.stamp_of(data) == container.stamp()
    assert record.expire_at_of(data) == container.expire_at_ms()
    assert siblings.container_of(data) == container


def test_a_key_that_is_only_partly_timed_has_no_expiry() -> None:
    assert record.expire_at_of(siblings.encode(FORMS["four siblings"])) == 0
    assert record.expire_at_of(siblings.encode(FORMS["value that expires"])) == MS + 9


@pytest.mark.parametrize("name", FORMS)
def test_every_cut_and_every_surplus_byte_is_found(name: str) -> None:
    data = siblings.encode(FORMS[name])
    for end in range(len(data)):
        with pytest.raises(CorruptionError):
            siblings.decode(data[:end])
    with pytest.raises(CorruptionError):
        siblings.decode(data + b"\x00")


@pytest.mark.parametrize("name", FORMS)
def test_a_changed_byte_is_found_or_gives_another_sound_container(name: str) -> None:
    data = siblings.encode(FORMS[name])
    for place, bit in itertools.product(range(len(data)), range(8)):
        changed = bytearray(data)
        changed[place] ^= 1 << bit
        try:
            container = siblings.decode(bytes(changed))
        except CorruptionError:
            continue
        container.check_invariants()
        assert siblings.encode(container) == changed, (place, bit)


def test_random_bytes_never_do_anything_else() -> None:
    rng = seeded(4)
    for _ in range(500):
        data = bytes((rng.choice((0x20, 0x21, 0x30, 0x31)),)) + rng.randbytes(10)
        data += rng.choice((b"", rng.randbytes(8))) + b"\x01\x00" + bytes((rng.randrange(3),))
        data += b"\x00" + bytes((rng.randrange(3),)) + rng.randbytes(rng.randrange(120))
        with pytest.raises(CorruptionError, match=r"^table 7: offset "):
            siblings.decode(data, where="table 7")


def test_what_is_wrong_is_named() -> None:
    one, four = siblings.encode(FORMS["one value"]), siblings.encode(FORMS["four siblings"])
    entries, dots = 16, 16 + 3 * 16
    one_entry, next_entry = four[entries : entries + 16], four[entries + 16 : entries + 32]
    swapped_entries = four[:entries] + next_entry + one_entry + four[entries + 32 :]
    second, third = four[dots + 25 : dots + 50], four[dots + 50 : dots + 75]
    swapped_dots = four[: dots + 25] + third + second + four[dots + 75 :]
    cases = {
        one[:11] + b"\x02" + one[12:]: "version 2",
        one[:14] + b"\x00\x00" + one[16:]: "cut short or holds none",
        swapped_entries: "clock of siblings is not in order",
        four[: entries + 8] + bytes(8) + four[entries + 16 :]: "clock of siblings is not in order",
        one[:24] + bytes(8) + one[32:]: "clock of siblings is not in order",
        one[:24] + (1).to_bytes(8, "big") + one[32:]: "contradicts its clock",
        one[:32] + bytes(8) + one[40:]: "contradicts its clock",
        one[:56] + b"\x00" + one[57:]: "contradicts its clock or itself",
        one[:56] + b"\x02" + one[57:]: "contradicts its clock or itself",
        one[:57] + b"\x00\x00\x00\x04" + one[61:]: "do not fill the record",
        swapped_dots: "siblings are not in order",
        b"\x20" + one[1:]: "disagree",
        b"\x22" + one[1:]: "disagree",
        b"\x61" + one[1:]: "disagree",
        b"\x01" + one[1:]: "disagree",
        one[:1] + pack_stamp(hlc(2), 1) + one[11:]: "disagree",
    }
    for data, reason in cases.items():
        with pytest.raises(CorruptionError, match=reason):
            siblings.decode(data)


def test_only_what_holds_a_sibling_is_written() -> None:
    with pytest.raises(AssertionError):
        siblings.encode(EMPTY)


def test_plain_records_count_as_the_write_of_their_node() -> None:
    actor, stamp = make_actor(2, 0), pack_stamp(hlc(3), 2)
    for data, sibling in (
        (record.encode(STRING, stamp, b"$1\r\nv\r\n"), Sibling(hlc(3), actor, 0, b"v")),
        (record.encode(STRING, stamp, b"$1\r\nv\r\n", 99), Sibling(hlc(3), actor, 99, b"v")),
        (record.encode(STRING, stamp, b"$4\r\na\r\nb\r\n"), Sibling(hlc(3), actor, 0, b"a\r\nb")),
        (record.encode(STRING, stamp, b"$0\r\n\r\n"), Sibling(hlc(3), actor, 0, b"")),
        (record.tombstone(stamp), Sibling(hlc(3), actor, 0, None)),
        (record.encode(TOMBSTONE, stamp, b"", 99), Sibling(hlc(3), actor, 99, None)),
    ):
        container = siblings.container_of(data)
        assert container == Container({actor: hlc(3)}, (sibling,))
        assert siblings.decode(siblings.encode(container)) == container
        assert record.stamp_of(siblings.encode(container)) == stamp
    assert siblings.container_of(None) is EMPTY
    with pytest.raises(AssertionError):
        siblings.container_of(record.encode(HASH, stamp, bytes(10)))


def test_joining_plain_records_is_last_write_wins() -> None:
    old, new = record.encode(STRING, pack_stamp(1, 1), b"old"), record.encode(STRING, pack_stamp(2, 1), b"new")
    assert siblings.join(old, new) is siblings.join(new, old) is new


def test_joining_containers_merges_and_gives_back_what_already_knows_all() -> None:
    small = siblings.encode(Container({A: 1}, (Sibling(1, A, 0, b"one"),)))
    large = siblings.encode(Container({A: 2}, (Sibling(2, A, 0, b"two"),)))
    beside = siblings.encode(Container({B: 3}, (Sibling(3, B, 0, b"beside"),)))
    assert siblings.join(small, large) is siblings.join(large, small) is large
    assert siblings.join(large, bytes(bytearray(large))) is large
    both = siblings.join(large, beside)
    assert both == siblings.join(beside, large)
    assert siblings.decode(both) == merge(siblings.decode(large), siblings.decode(beside))
    with pytest.raises(CorruptionError, match=r"^peer 3: "):
        siblings.join(small, large[:-1], where="peer 3")


def test_joining_a_container_with_a_plain_record_keeps_both_or_the_one_that_saw_the_other() -> None:
    plain = record.encode(STRING, pack_stamp(5, 2), b"$5\r\nplain\r\n")
    unseen = siblings.encode(Container({A: 9}, (Sibling(9, A, 0, b"unseen"),)))
    both = siblings.join(plain, unseen)
    assert both == siblings.join(unseen, plain)
    assert [sibling.value for sibling in siblings.decode(both).siblings] == [b"unseen", b"plain"]
    seen = siblings.encode(Container({A: 9, B: 5}, (Sibling(9, A, 0, b"seen"),)))
    assert siblings.join(plain, seen) is siblings.join(seen, plain) is seen
    # The same write in both forms becomes a container, so that both sides end with the same bytes.
    imported = siblings.encode(siblings.container_of(plain))
    assert siblings.join(plain, imported) == siblings.join(imported, plain) == imported


def test_a_collection_and_a_container_are_ordered_by_stamp() -> None:
    container = siblings.encode(Container({A: 5}, (Sibling(5, A, 0, b"v"),)))
    older, newer = (record.encode(HASH, pack_stamp(number, 1), bytes(10)) for number in (4, 6))
    assert siblings.join(older, container) is siblings.join(container, older) is container
    assert siblings.join(newer, container) is siblings.join(container, newer) is newer


def test_under_last_write_wins_a_plain_record_and_a_container_go_by_stamp() -> None:
    container = Container({A: 5, B: 4}, (Sibling(5, A, 0, b"v"), Sibling(4, B, 0, b"w")))
    data, other = siblings.encode(container), siblings.encode(Container({A: 5}, (Sibling(5, A, 0, b"v"),)))
    older, newer = (record.encode(STRING, pack_stamp(number, 1), b"plain") for number in (4, 6))
    deleted = record.tombstone(pack_stamp(6, 1))
    for plain, expected in ((older, data), (newer, newer), (deleted, deleted)):
        assert siblings.join(plain, data, last_write_wins=True) is expected
        assert siblings.join(data, plain, last_write_wins=True) is expected
    assert siblings.join(data, other, last_write_wins=True) == siblings.join(other, data, last_write_wins=True) == data
    plain = record.encode(STRING, pack_stamp(4, 2), b"$1\r\nw\r\n")
    imported = siblings.encode(siblings.container_of(plain))
    for pair in ((plain, imported), (imported, plain)):
        assert siblings.join(*pair, last_write_wins=True) is imported


def test_what_was_flushed_goes_out_of_a_container() -> None:
    container = Container({A: 9, B: 4}, (Sibling(9, A, 0, b"v"), Sibling(4, B, 0, b"w")))
    data = siblings.encode(container)
    assert siblings.without_flushed(data, pack_stamp(3, 9)) is data
    left = siblings.decode(siblings.without_flushed(data, pack_stamp(4, 2)))
    assert left == Container({A: 9, B: 4}, (Sibling(9, A, 0, b"v"),))


def test_expired_form_of_a_record_keeps_head_and_token() -> None:
    container = Container({A: 9, B: 8}, (Sibling(9, A, 300, b"long"), Sibling(8, B, 100, b"short")))
    data = siblings.encode(container)
    assert siblings.expired_form(data, 99) is data
    some, gone = siblings.expired_form(data, 100), siblings.expired_form(data, 300)
    assert siblings.decode(some) == drop_expired(container, 100)
    assert (record.kind_of(some), record.kind_of(gone)) == (STRING, TOMBSTONE)
    assert data[1:19] == some[1:19] == gone[1:19]
    assert siblings.token(data) == siblings.token(some) == siblings.token(gone)
    assert siblings.join(data, gone) is gone and siblings.join(gone, some) is gone


def test_tokens_tell_containers_apart_that_share_their_newest_dot() -> None:
    newest = Sibling(9, A, 0, b"v")
    forms = [
        Container({A: 9}, (newest,)),
        Container({A: 9, B: 5}, (newest,)),
        Container({A: 9, B: 5}, (newest, Sibling(5, B, 0, b"w"))),
        Container({A: 9, B: 5}, (newest, Sibling(5, B, 0, None))),
        Container({A: 9, B: 5}, (newest, Sibling(5, B, 7, b"w"))),
        Container({A: 9, B: 5}, (newest, Sibling(4, B, 0, b"w"))),
    ]
    data = [siblings.encode(container) for container in forms]
    assert len({record.stamp_of(one) for one in data}) == 1
    tokens = {siblings.token(one): True for one in data}
    assert len(tokens) == len(forms)
    assert all(len(token) == STAMP_BYTES and token.startswith(siblings.TOKEN_PREFIX) for token in tokens)


def test_the_token_of_a_plain_record_is_its_stamp() -> None:
    stamp = pack_stamp(5, 2)
    assert siblings.token(record.encode(STRING, stamp, b"v", 9)) == siblings.token(record.tombstone(stamp)) == stamp
    with pytest.raises(CorruptionError):
        siblings.token(b"\x21" + stamp)
