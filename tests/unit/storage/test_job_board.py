from __future__ import annotations

import pytest

from respkv.storage.job_board import COMPACT, FLUSH, JobBoard


def test_one_job_of_a_kind_until_its_result_is_installed() -> None:
    board = JobBoard()
    job = board.start(FLUSH, {"outputs": []}, (1,), (1,))
    assert not board.may_start(FLUSH) and board.may_start(COMPACT)
    assert board.finish(job.id) is job
    assert not board.may_start(FLUSH)
    board.installed(FLUSH)
    assert board.may_start(FLUSH)
    with pytest.raises(KeyError):
        board.finish(job.id)


def test_pins_are_counted() -> None:
    board = JobBoard()
    job = board.start(COMPACT, {}, (1, 2), (1, 2, 3))
    board.pin((3, 4))
    board.finish(job.id)
    assert [board.is_pinned(number) for number in (1, 2, 3, 4)] == [False, False, True, True]
    board.unpin((3, 4))
    assert board.stats()["files_pinned"] == 0
    board.check_invariants()


def test_failures_wait_longer_and_longer() -> None:
    board = JobBoard()
    waits = []
    for _ in range(12):
        job = board.start(FLUSH, {}, (), ())
        board.fail(job.id)
        ticks = 0
        while not board.may_start(FLUSH):
            board.tick()
            ticks += 1
        waits.append(ticks)
    assert waits[:4] == [2, 4, 8, 16] and waits[-1] == 600
    assert board.stats()["jobs_failed_in_a_row"] == 12
    job = board.start(FLUSH, {}, (), ())
    board.finish(job.id)
    assert board.stats()["jobs_failed_in_a_row"] == 0
    assert board.running() == []
