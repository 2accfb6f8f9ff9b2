"""Values by the beginning of a key."""

from __future__ import annotations

from respkv.base.prefixes import Colocation, PrefixTable, prefix_table
from respkv.base.slots import slot_of


def test_the_longest_prefix_counts_whatever_the_order() -> None:
    rows = [(b"a", 1), (b"a:b:", 3), (b"a:", 2), (b".*", 4), (b"\xff\n", 5)]
    for turn in range(len(rows)):
        table = PrefixTable(rows[turn:] + rows[:turn])
        keys = (b"a", b"a:x", b"a:b:x", b"a:b", b"b", b"", b"xa", b".*x", b"abc", b"\xff\n\n")
        assert [table.find(key) for key in keys] == [1, 2, 3, 2, None, None, None, 4, 1, 5]


def test_the_empty_prefix_is_every_other_key() -> None:
    table = PrefixTable([(b"", 0), (b"a", 1)])
    assert [table.find(key) for key in (b"", b"a", b"\n", b"b")] == [0, 1, 0, 0]


def test_a_match_may_begin_inside_a_key() -> None:
    table = PrefixTable([(b"user:", 7)])
    assert table.match(b"\x01\x00\x00\x00\x00user:1", 5) and not table.match(b"\x01\x00\x00\x00\x00us", 5)


def test_a_later_value_of_a_prefix_replaces_an_earlier_one() -> None:
    assert PrefixTable([(b"a", 1), (b"a", 2)]).rows() == [(b"a", 2)]


def test_no_rows_are_no_table() -> None:
    assert prefix_table([]) is None and prefix_table([(b"a", 1)]) is not None


def test_there_may_be_more_prefixes_than_groups_were_once_allowed() -> None:
    table = PrefixTable([(b"%d:" % number, number) for number in range(1000)])
    assert [table.find(b"%d:x" % number) for number in (0, 99, 100, 999)] == [0, 99, 100, 999]


def test_the_keys_of_a_prefix_lie_in_its_slot() -> None:
    found = Colocation([b"jobs:", b"jobs:old:", b"{t}:"])
    assert found.slot(b"jobs:1") == found.slot(b"jobs:{2}") == slot_of(b"jobs:") != slot_of(b"jobs:1")
    assert found.slot(b"jobs:old:1") == slot_of(b"jobs:old:") and found.slot(b"job") == slot_of(b"job")
    assert found.foreign == {slot_of(b"jobs:"), slot_of(b"jobs:old:")}
    # Where Redis puts them as well, clients need no help.
    assert found.slot(b"{t}:1") == slot_of(b"t") == slot_of(b"{t}:1")
