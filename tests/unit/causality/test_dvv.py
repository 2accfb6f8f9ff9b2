"""Containers: update, merge, order, limits, and which actor may write."""

from __future__ import annotations

import itertools

import pytest

from respkv.causality.dvv import (
    ACTOR_COUNTER_MAX,
    EMPTY,
    PRUNE_ABOVE_ACTORS,
    PRUNE_AGE_MS,
    SIBLINGS_MAX,
    SIBLINGS_WARN,
    ActorSource,
    Clock,
    Container,
    Order,
    Sibling,
    SiblingLevel,
    compare,
    covers,
    drop_expired,
    drop_flushed,
    make_actor,
    merge,
    needs_fresh_actor,
    prune,
    reusable_actor,
    set_expiry,
    sibling_level,
    update,
)
from respkv.causality.hlc import pack_stamp

A, B, C = make_actor(1, 1), make_actor(2, 1), make_actor(3, 1)


def put(
    container: Container, actor: int, hlc: int, value: bytes | None, context: Clock | None = None, expire_at_ms: int = 0
) -> Container:
    """A write with the container's own clock as its context unless another is given."""
    result = update(
        container,
        actor=actor,
        hlc=hlc,
        context=container.clock if context is None else context,
        value=value,
        expire_at_ms=expire_at_ms,
    )
    result.check_invariants()
    return result


def values(container: Container, now_ms: int = 0) -> list[bytes | None]:
    return [sibling.value for sibling in container.visible(now_ms)]


def test_actors_are_node_and_counter() -> None:
    assert make_actor(0x0102, 0x030405060708).to_bytes(8, "big") == bytes(range(1, 9))
    assert make_actor(1, ACTOR_COUNTER_MAX) < make_actor(2, 0)
    for node, counter in ((-1, 0), (1 << 16, 0), (1, -1), (1, 1 << 48)):
        with pytest.raises(AssertionError):
            make_actor(node, counter)


def test_a_write_replaces_what_it_has_seen() -> None:
    first = put(EMPTY, A, 1, b"one")
    second = put(first, A, 2, b"two")
    assert second == Container({A: 2}, (Sibling(2, A, 0, b"two"),))
    assert first == Container({A: 1}, (Sibling(1, A, 0, b"one"),)), "the old container stays as it was"


def test_a_write_without_context_makes_a_sibling_even_at_one_coordinator() -> None:
    container = put(put(EMPTY, A, 1, b"one"), A, 2, b"two", context={})
    assert values(container) == [b"two", b"one"]
    assert container.clock == {A: 2}


def test_a_context_replaces_exactly_what_it_covers() -> None:
    container = put(put(put(EMPTY, A, 1, b"one"), A, 2, b"two", context={}), B, 3, b"three", context={})
    assert values(put(container, A, 4, b"x", context={A: 1})) == [b"x", b"three", b"two"]
    assert values(put(container, A, 4, b"x", context={A: 2})) == [b"x", b"three"]
    assert values(put(container, A, 4, b"x", context={A: 2, B: 3})) == [b"x"]


def test_a_context_may_know_more_than_the_coordinator() -> None:
    elsewhere = put(EMPTY, B, 5, b"seen")
    here = put(EMPTY, A, 6, b"new", context=elsewhere.clock)
    assert values(merge(here, elsewhere)) == [b"new"]


def test_the_clock_must_be_observed_first() -> None:
    container = put(EMPTY, A, 5, b"one")
    for context in ({}, {B: 9}):
        with pytest.raises(AssertionError):
            update(container, actor=B, hlc=5, context=context, value=b"x")
    with pytest.raises(AssertionError):
        update(container, actor=A, hlc=6, context={}, value=None, expire_at_ms=1)
    assert container.newest_hlc() == 5 and EMPTY.newest_hlc() == 0


def test_concurrent_writes_are_siblings_and_one_who_saw_both_replaces_both() -> None:
    base = put(EMPTY, A, 1, b"base")
    left, right = put(base, A, 2, b"left"), put(base, B, 3, b"right")
    both = merge(left, right)
    assert both == Container({A: 2, B: 3}, (Sibling(3, B, 0, b"right"), Sibling(2, A, 0, b"left")))
    resolved = put(both, A, 4, b"resolved")
    for late in (base, left, right, both, resolved):
        assert merge(resolved, late) == merge(late, resolved) == resolved


def test_merge_keeps_what_the_other_side_never_saw_and_drops_what_it_replaced() -> None:
    base = put(EMPTY, A, 1, b"base")
    newer = put(base, B, 2, b"newer")
    beside = put(base, C, 3, b"beside", context={})
    assert values(beside) == [b"beside", b"base"]
    assert values(merge(newer, beside)) == [b"beside", b"newer"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_merge_does_not_mind_the_order(order: tuple[int, ...]) -> None:
    base = put(EMPTY, A, 1, b"base")
    deleted = put(base, B, 3, None)
    parts = [put(base, A, 2, b"x"), deleted, put(EMPTY, C, 4, b"y"), put(deleted, make_actor(1, 2), 5, b"z")]
    merged = parts[order[0]]
    for index in order[1:]:
        merged = merge(merged, parts[index])
        assert merge(merged, merged) == merged
        merged.check_invariants()
    assert [(s.hlc, s.value) for s in merged.siblings] == [(5, b"z"), (4, b"y"), (2, b"x")]


def test_an_actor_that_forgot_a_write_hides_it() -> None:
    base = put(EMPTY, A, 1, b"base")
    lost = put(base, A, 2, b"lost")
    assert values(merge(put(base, A, 3, b"next"), lost)) == [b"next"], "why ActorSource exists"
    assert values(merge(put(base, make_actor(1, 2), 3, b"next"), lost)) == [b"next", b"lost"]


def test_merge_with_nothing() -> None:
    container = put(EMPTY, A, 1, b"one")
    assert merge(container, EMPTY) == merge(EMPTY, container) == container
    assert merge(EMPTY, EMPTY) == EMPTY


def test_contradicting_clocks_keep_the_newest_sibling() -> None:
    left = Container({A: 1, B: 2}, (Sibling(1, A, 0, b"left"),))
    right = Container({A: 1, B: 2}, (Sibling(2, B, 0, b"right"),))
    assert values(merge(left, right)) == values(merge(right, left)) == [b"right"]


def test_a_deletion_beside_a_value_is_hidden_and_alone_is_absence() -> None:
    base = put(EMPTY, A, 1, b"base")
    deleted, written = put(base, A, 3, None), put(base, B, 2, b"written")
    both = merge(deleted, written)
    assert len(both.siblings) == 2 and values(both) == [b"written"]
    winner = both.winner(0)
    assert winner is not None and winner.value == b"written"
    assert deleted.winner(0) is None and values(deleted) == []
    assert values(merge(base, deleted)) == [], "what was deleted does not come back"


def test_the_winner_is_the_newest_and_ties_go_to_the_actor() -> None:
    container = merge(put(EMPTY, A, 7, b"low"), put(EMPTY, B, 7, b"high"))
    winner = container.winner(0)
    assert winner is not None and winner.value == b"high"
    assert container.stamp() == pack_stamp(7, 2)


def test_the_stamp_counts_deletions_and_never_falls() -> None:
    base = put(EMPTY, A, 1, b"base")
    deleted = put(base, B, 9, None)
    assert deleted.stamp() == pack_stamp(9, 2)
    other = put(base, C, 5, b"other")
    assert merge(deleted, other).stamp() == pack_stamp(9, 2)


def test_expiry_hides_a_value_and_the_last_expiry_is_the_key_s() -> None:
    container = merge(put(EMPTY, A, 1, b"short", expire_at_ms=100), put(EMPTY, B, 2, b"long", expire_at_ms=200))
    assert container.expire_at_ms() == 200
    assert values(container, 99) == [b"long", b"short"]
    assert values(container, 100) == [b"long"]
    assert values(container, 200) == []
    assert merge(container, put(EMPTY, C, 3, b"always")).expire_at_ms() == 0
    assert merge(container, put(EMPTY, C, 3, None)).expire_at_ms() == 200
    assert put(EMPTY, C, 3, None).expire_at_ms() == 0


def test_dropping_expired_values_changes_neither_stamp_nor_expiry() -> None:
    container = merge(put(EMPTY, A, 1, b"short", expire_at_ms=100), put(EMPTY, B, 2, b"long", expire_at_ms=200))
    assert drop_expired(container, 99) is container
    dropped = drop_expired(container, 150)
    assert dropped.siblings == (Sibling(2, B, 200, b"long"), Sibling(1, A, 100, None))
    gone = drop_expired(dropped, 200)
    assert [sibling.value for sibling in gone.siblings] == [None, None]
    for later in (dropped, gone):
        later.check_invariants()
        assert (later.expire_at_ms(), later.stamp(), later.clock) == (200, container.stamp(), container.clock)
        assert merge(later, container) == merge(container, later) == later, "the expired form wins"
    assert drop_expired(gone, 300) is gone


def test_order_of_containers() -> None:
    base = put(EMPTY, A, 1, b"base")
    left, right = put(base, A, 2, b"left"), put(base, B, 3, b"right")
    both = merge(left, right)
    assert compare(base, base) is Order.EQUAL
    assert compare(EMPTY, base) is Order.LESS and compare(base, EMPTY) is Order.GREATER
    assert compare(base, left) is Order.LESS and compare(both, right) is Order.GREATER
    assert compare(left, right) is Order.CONCURRENT
    blind = put(base, A, 2, b"blind", context={})
    assert compare(base, blind) is Order.LESS, "a sibling more is more, too"
    # The same clock, but one side has already been told that "base" was replaced.
    told = put(base, A, 2, b"blind")
    assert blind.clock == told.clock and compare(blind, told) is Order.LESS


def test_covers_means_that_merging_changes_nothing() -> None:
    base = put(EMPTY, A, 1, b"base", expire_at_ms=50)
    left, right = put(base, A, 2, b"left", expire_at_ms=60), put(base, B, 3, None)
    some = [EMPTY, base, left, right, merge(left, right), put(base, C, 4, b"c", context={})]
    some += [drop_expired(container, 70) for container in some]
    for one, other in itertools.product(some, some):
        assert covers(one, other) == (merge(one, other) == one), (one, other)


def test_set_expiry_keeps_the_conflict_and_its_order() -> None:
    both = merge(put(EMPTY, A, 1, b"left"), put(EMPTY, B, 2, b"right"))
    both = merge(both, put(EMPTY, C, 3, None))
    timed = set_expiry(both, actor=A, first_hlc=10, expire_at_ms=500, now_ms=0)
    timed.check_invariants()
    assert timed.siblings == (Sibling(11, A, 500, b"right"), Sibling(10, A, 500, b"left"))
    assert timed.clock == {A: 11, B: 2, C: 3}
    assert merge(timed, both) == timed
    assert set_expiry(timed, actor=A, first_hlc=20, expire_at_ms=0, now_ms=499).expire_at_ms() == 0
    assert set_expiry(timed, actor=A, first_hlc=20, expire_at_ms=0, now_ms=500) is timed
    with pytest.raises(AssertionError):
        set_expiry(timed, actor=A, first_hlc=11, expire_at_ms=0, now_ms=0)


def test_a_flush_floor_takes_the_siblings_up_to_it() -> None:
    container = merge(put(EMPTY, A, 5, b"old"), put(EMPTY, B, 7, b"new"))
    assert drop_flushed(container, pack_stamp(5, 0)) is container
    assert drop_flushed(container, pack_stamp(5, 1)) == Container(container.clock, container.siblings[:1])
    assert drop_flushed(container, pack_stamp(7, 2)) is EMPTY
    assert drop_flushed(EMPTY, pack_stamp(7, 2)) is EMPTY


def crowd(count: int) -> Container:
    """A key without conflict whose clock has ``count`` actors, with one millisecond between the writes."""
    container = EMPTY
    for number in range(1, count + 1):
        container = put(container, make_actor(9, number), number << 16, b"v")
    return container


def test_pruning_forgets_old_actors_beyond_twenty() -> None:
    container = crowd(PRUNE_ABOVE_ACTORS + 5)
    assert prune(container, PRUNE_AGE_MS) is container, "nothing is older than a day"
    assert prune(crowd(PRUNE_ABOVE_ACTORS), PRUNE_AGE_MS * 9) == crowd(PRUNE_ABOVE_ACTORS)
    some = prune(container, PRUNE_AGE_MS + 4)
    assert sorted(some.clock) == [make_actor(9, number) for number in range(4, 26)]
    most = prune(container, PRUNE_AGE_MS * 9)
    assert sorted(most.clock) == [make_actor(9, number) for number in range(6, 26)]
    most.check_invariants()
    assert most.siblings == container.siblings
    assert merge(most, container) == container, "a copy that was not pruned brings the entries back"


def test_pruning_spares_conflicts_and_the_sibling_s_actor() -> None:
    conflict = merge(crowd(PRUNE_ABOVE_ACTORS + 5), put(EMPTY, A, 1, b"other"))
    assert prune(conflict, PRUNE_AGE_MS * 9) is conflict
    oldest = make_actor(9, 1)
    clock = {oldest: 1, **{make_actor(9, number): number << 16 for number in range(2, 30)}}
    kept = prune(Container(clock, (Sibling(1, oldest, 0, b"v"),)), PRUNE_AGE_MS * 9)
    kept.check_invariants()
    assert oldest in kept.clock and len(kept.clock) == PRUNE_ABOVE_ACTORS


def many(count: int) -> Container:
    container = EMPTY
    for number in range(1, count + 1):
        container = put(container, A, number, b"v", context={})
    return container


def test_sibling_limits() -> None:
    steps = [many(count) for count in (SIBLINGS_WARN, SIBLINGS_WARN + 1, SIBLINGS_MAX, SIBLINGS_MAX + 1)]
    below, warned, full, over = steps
    assert sibling_level(below, below) is SiblingLevel.FINE
    assert sibling_level(below, warned) is SiblingLevel.WARN
    assert sibling_level(full, full) is SiblingLevel.WARN
    assert sibling_level(full, over) is SiblingLevel.REFUSE
    assert sibling_level(over, over) is SiblingLevel.WARN, "no more than before may be written"
    assert sibling_level(over, put(over, B, 999, b"all")) is SiblingLevel.FINE


def test_an_actor_is_reused_only_for_a_stored_copy_and_only_if_nothing_was_lost_since() -> None:
    old, new, other = make_actor(1, 5), make_actor(1, 8), make_actor(2, 9)
    container = Container({old: 1, other: 2, new: 3}, (Sibling(3, new, 0, b"v"),))
    assert reusable_actor(container, 1, 0) == new
    assert reusable_actor(container, 1, 8) == new
    assert reusable_actor(container, 1, 9) is None and needs_fresh_actor(container, 1, 9)
    assert reusable_actor(container, 2, 9) == other and not needs_fresh_actor(container, 2, 9)
    assert needs_fresh_actor(container, 3, 0)
    assert needs_fresh_actor(None, 1, 0) and needs_fresh_actor(EMPTY, 1, 0)
    plain = Container({make_actor(1, 0): 1}, (Sibling(1, make_actor(1, 0), 0, b"v"),))
    assert needs_fresh_actor(plain, 1, 0), "counter 0 belongs to plain records"


def test_the_source_gives_each_actor_once_and_stops_at_its_ceiling() -> None:
    source = ActorSource(7, start=0, ceiling=3)
    assert [source.actor_for(None), source.actor_for(EMPTY)] == [make_actor(7, 1), make_actor(7, 2)]
    assert not source.may_issue()
    with pytest.raises(AssertionError):
        source.actor_for(None)
    source.raise_ceiling(5)
    source.raise_ceiling(4)
    assert source.actor_for(None) == make_actor(7, 3)
    assert source.stats() == {"issued": 3, "left": 1}
    with pytest.raises(AssertionError):
        source.raise_ceiling(1 << 48)


def test_the_source_does_not_go_on_with_actors_from_before_a_loss() -> None:
    source = ActorSource(7, start=1, ceiling=100)
    stored = put(EMPTY, source.actor_for(None), 1, b"v")
    assert source.actor_for(stored) == make_actor(7, 1)
    source.forget()
    assert source.actor_for(stored) == make_actor(7, 2)
    restarted = ActorSource(7, start=100, ceiling=200)
    assert restarted.actor_for(stored) == make_actor(7, 100)


@pytest.mark.parametrize(
    "broken",
    [
        Container({A: 0}, ()),
        Container({A: 1}, ()),
        Container({A: 1}, (Sibling(2, A, 0, b"v"),)),
        Container({A: 1}, (Sibling(1, B, 0, b"v"),)),
        Container({A: 2, B: 3}, (Sibling(2, A, 0, b"v"), Sibling(3, B, 0, b"v"))),
        Container({A: 2}, (Sibling(2, A, 0, b"v"), Sibling(2, A, 0, b"v"))),
    ],
)
def test_check_invariants_finds_what_is_broken(broken: Container) -> None:
    with pytest.raises(AssertionError):
        broken.check_invariants()
