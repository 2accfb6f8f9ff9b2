from __future__ import annotations

import pytest

from respkv.env.rng import seeded
from respkv.storage.merge import Chunk, merge_runs

Entries = list[tuple[bytes, bytes]]


def chunks(entries: Entries, size: int) -> list[Chunk]:
    parts = [entries[at : at + size] for at in range(0, len(entries), size)]
    return [([key for key, _ in part], [record for _, record in part]) for part in parts]


def flat(merged: list[Chunk]) -> Entries:
    return [entry for keys, records in merged for entry in zip(keys, records, strict=True)]


@pytest.mark.parametrize("seed", range(12))
def test_newest_record_of_each_key_in_order(seed: int) -> None:
    rng = seeded(seed)
    expected: dict[bytes, bytes] = {}
    runs: list[list[Chunk]] = []
    count = rng.randrange(1, 7)
    for age in reversed(range(count)):  # the oldest first
        low = rng.randrange(200)
        keys = sorted(rng.sample(range(low, low + 400), rng.randrange(200)))
        entries = [(b"%04d" % key, b"run %d of %d" % (age, key)) for key in keys]
        expected.update(entries)
        runs.insert(0, chunks(entries, rng.choice((1, 3, 50, 1000))))
    merged = list(merge_runs(runs))
    assert flat(merged) == sorted(expected.items())
    assert all(keys for keys, _ in merged)


def test_nothing_to_merge() -> None:
    assert list(merge_runs([])) == []
    assert list(merge_runs([[], []])) == []
    assert list(merge_runs([[([], []), ([b"a"], [b"1"])], []])) == [([b"a"], [b"1"])]


def test_chunks_of_a_run_alone_pass_untouched() -> None:
    first, second = ([b"a", b"b"], [b"1", b"2"]), ([b"x"], [b"3"])
    merged = list(merge_runs([[first], [second]]))
    assert merged == [first, second]
    assert merged[0][0] is first[0]


def test_only_one_chunk_of_each_run_is_held() -> None:
    taken = [0, 0]

    def run(number: int, keys: range) -> object:
        for key in keys:
            taken[number] += 1
            yield [b"%04d" % key], [b""]

    merged = merge_runs([run(0, range(0, 100, 2)), run(1, range(1, 100, 2))])  # type: ignore[list-item]
    for _ in range(10):
        next(merged)
    assert max(taken) <= 7


def test_an_error_of_a_run_passes_through() -> None:
    def broken() -> object:
        yield [b"a"], [b"1"]
        raise OSError("bad disk")

    with pytest.raises(OSError, match="bad disk"):
        list(merge_runs([broken(), [([b"b"], [b"2"])]]))  # type: ignore[list-item]
