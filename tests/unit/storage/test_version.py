from __future__ import annotations

import json

import pytest

from respkv.base.errors import FormatError
from respkv.storage.sstable.format import TableMeta
from respkv.storage.version import Edit, Run, Version, table_id, table_path


def meta(file_id: int, smallest: bytes = b"a", largest: bytes = b"b", size: int = 100) -> TableMeta:
    return TableMeta(file_id, size, 7, smallest, largest, bytes(10), b"\xff" * 10, 2)


def test_runs_stand_newest_first_however_they_are_added() -> None:
    version = Version().apply(Edit(add=(Run(5, (meta(6),)),), log_number=7, log_lsn=70, next_file=8))
    version = version.apply(Edit(add=(Run(9, (meta(10),)), Run(3, (meta(4),))), next_file=5))
    assert [run.sequence for run in version.runs] == [9, 5, 3]
    assert (version.log_number, version.log_lsn, version.next_file) == (7, 70, 8)
    assert version.size == 300 and version.runs[0].entries == 7
    version.check_invariants()


def test_a_compaction_takes_its_inputs_place() -> None:
    version = Version().apply(Edit(add=tuple(Run(number, (meta(number),)) for number in (1, 2, 3, 4))))
    merged = version.apply(Edit(add=(Run(3, (meta(10), meta(11, b"c", b"d"))),), drop=(2, 3)))
    assert [(run.sequence, len(run.tables)) for run in merged.runs] == [(4, 1), (3, 2), (1, 1)]


def test_runs_that_end_up_empty_disappear() -> None:
    version = Version().apply(Edit(add=(Run(1, (meta(1), meta(2, b"c", b"d"))), Run(2, (meta(3),)))))
    assert [table.file_id for table in version.apply(Edit(drop=(1,))).tables()] == [3, 2]
    assert version.apply(Edit(drop=(3,), add=(Run(2, ()),))).runs[0].sequence == 1


def test_meta_values_are_set_replaced_and_deleted() -> None:
    version = Version().apply(Edit(meta={"a": b"1", "b": b"2"})).apply(Edit(meta={"a": b"3", "b": None}))
    assert version.meta == {"a": b"3"}


def test_a_full_edit_starts_from_nothing_and_repeats_the_version() -> None:
    version = Version().apply(
        Edit(add=(Run(1, (meta(1),)),), log_number=3, log_lsn=9, next_file=4, meta={"m": b"x"})
    )
    other = Version().apply(Edit(add=(Run(2, (meta(2),)),), meta={"n": b"y"}))
    assert other.apply(version.snapshot_edit()) == version
    assert other.apply(version.snapshot_edit(log_number=0)).log_number == 0


@pytest.mark.parametrize(
    "edit",
    [
        Edit(drop=(99,)),
        Edit(add=(Run(1, (meta(50),)),)),
        Edit(add=(Run(2, (meta(1),)),)),
        Edit(add=(Run(2, (meta(50, b"a", b"c"), meta(51, b"c", b"d"))),)),
    ],
)
def test_edits_that_break_an_invariant_are_refused(edit: Edit) -> None:
    version = Version().apply(Edit(add=(Run(1, (meta(1),)),)))
    with pytest.raises(ValueError, match=r"drops|sequences|twice|overlap"):
        version.apply(edit)


def test_edits_survive_json() -> None:
    edits = [
        Edit(),
        Edit(
            add=(Run(1, (meta(1, b"\x00\xff", b"\x01"),)),), drop=(4, 5), log_number=0, log_lsn=0, next_file=9
        ),
        Edit(meta={"counts": b"\x00\x01", "gone": None}, full=True),
    ]
    for edit in edits:
        assert Edit.from_json(json.loads(json.dumps(edit.to_json()))) == edit


def test_edits_of_a_newer_program_are_refused() -> None:
    with pytest.raises(FormatError, match="colour"):
        Edit.from_json({"next_file": 1, "colour": "red"})


def test_an_empty_run_is_reported() -> None:
    assert Version((Run(1, ()),)).problem() == "run 1 is empty"


def test_table_names() -> None:
    assert table_path("/d", 12) == "/d/tables/000000000012.sst"
    assert table_id("000000000012.sst") == 12
    for name in ("12.sst", "000000000012.log", "x"):
        assert table_id(name) is None
