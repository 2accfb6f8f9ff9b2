"""The overlay: every read shows the effects pending in a transaction, as if they were applied."""

from __future__ import annotations

import random
from typing import Any

import pytest

from respkv.base.errors import CommandError
from respkv.base.ids import HASH, STRING, TOMBSTONE
from respkv.keyspace import effects as fx
from respkv.keyspace.view import View
from respkv.resp.errors import DB_INDEX, WRONG_TYPE
from tests.unit.keyspace.rig import START_MS, Rig

SOON = START_MS + 1000
KEYS = [b"s", b"t", b"h", b"new", b"k1", b"k2"]
FIELDS = [b"a", b"b", b"c", b"d"]


@pytest.fixture
def rig() -> Rig:
    rig = Rig(databases=3)
    rig.apply(
        fx.put(0, b"s", b"value"),
        fx.put(0, b"t", b"timed", SOON),
        fx.put_element(0, b"h", HASH, b"a", b"1"),
        fx.put_element(0, b"h", HASH, b"b", b"2", SOON),
    )
    return rig


def answers(view: View, key: bytes) -> Any:
    """Everything a command can ask about a key."""
    kind = view.kind(key)
    found: list[Any] = [kind, view.expire_at(key)]
    if kind == STRING:
        found += [view.string(key), view.reply(key)]
    if kind == HASH:
        fields = view.hash(key)
        assert fields is not None
        found += [
            fields.count(),
            list(fields.items()),
            [(fields.get(field), fields.expire_at(field)) for field in FIELDS],
            [fields.items_after(field, 2) for field in (None, *FIELDS)],
        ]
    return found


def test_a_pending_string(rig: Rig) -> None:
    view = rig.overlay()
    view.absorb([fx.put(0, b"new", b"v", SOON)])
    assert view.string(b"new") == b"v" and view.reply(b"new") == b"$1\r\nv\r\n"
    assert view.kind(b"new") == STRING and view.expire_at(b"new") == SOON
    assert rig.view().kind(b"new") == TOMBSTONE


def test_a_pending_string_over_a_hash(rig: Rig) -> None:
    view = rig.overlay()
    view.absorb([fx.put(0, b"h", b"v")])
    assert view.string(b"h") == b"v"
    with pytest.raises(CommandError) as caught:
        view.hash(b"h")
    assert caught.value.reply == WRONG_TYPE


def test_a_pending_delete(rig: Rig) -> None:
    view = rig.overlay()
    view.absorb([fx.delete(0, b"s"), fx.delete(0, b"h")])
    assert view.string(b"s") is None and view.hash(b"h") is None and view.expire_at(b"s") is None
    assert view.memory(b"s") is None and view.stamp_ms(b"h") is None
    view.absorb([fx.put_element(0, b"h", HASH, b"z", b"9")])
    found = view.hash(b"h")
    assert found is not None and list(found.items()) == [(b"z", b"9", 0)] and found.count() == 1


def test_a_pending_expiry(rig: Rig) -> None:
    view = rig.overlay()
    view.absorb([fx.expire(0, b"s", SOON), fx.expire(0, b"t", 0), fx.expire(0, b"h", SOON), fx.expire(0, b"none", 5)])
    assert [view.expire_at(key) for key in (b"s", b"t", b"h", b"none")] == [SOON, 0, SOON, None]
    assert view.string(b"s") == b"value" and view.string(b"t") == b"timed"
    found = view.hash(b"h")
    assert found is not None and found.count() == 2 and found.get(b"a") == b"1"
    assert rig.view().expire_at(b"s") == 0 and rig.view().expire_at(b"h") == 0
    rig.advance_ms(1000)
    assert view.string(b"s") is None and view.hash(b"h") is None and view.string(b"t") == b"timed"


def test_pending_fields(rig: Rig) -> None:
    view = rig.overlay()
    view.absorb(
        [
            fx.put_element(0, b"h", HASH, b"a", b"new"),
            fx.remove_element(0, b"h", b"b"),
            fx.put_element(0, b"h", HASH, b"c", b"3", SOON),
        ]
    )
    found = view.hash(b"h")
    assert found is not None
    assert found.get(b"a") == b"new" and found.get(b"b") is None and found.expire_at(b"c") == SOON
    assert found.count() == 2
    assert list(found.items()) == [(b"a", b"new", 0), (b"c", b"3", SOON)]
    assert found.items_after(b"a", 5) == [(b"c", b"3", SOON)]
    rig.advance_ms(1000)
    assert found.get(b"c") is None and list(found.items()) == [(b"a", b"new", 0)]
    assert rig.fields(b"h") == {b"a": (b"1", 0)}


def test_the_last_field_takes_the_key_with_it(rig: Rig) -> None:
    view = rig.overlay()
    view.absorb([fx.remove_element(0, b"h", b"a"), fx.remove_element(0, b"h", b"b")])
    assert view.hash(b"h") is None and view.kind(b"h") == TOMBSTONE
    view.absorb([fx.remove_element(0, b"none", b"a")])
    assert view.kind(b"none") == TOMBSTONE


def test_a_pending_key_was_written_now(rig: Rig) -> None:
    rig.advance_ms(7)
    view = rig.overlay()
    view.absorb([fx.put(0, b"new", b"v"), fx.put(0, b"s", b"again"), fx.put_element(0, b"n2", HASH, b"f", b"v")])
    for key in (b"new", b"s", b"n2"):
        assert view.stamp_ms(key) == view.last_access_ms(key) == rig.now_ms
        assert (view.memory(key) or 0) > 100
    assert view.stamp_ms(b"t") == START_MS


def test_a_pending_flush(rig: Rig) -> None:
    rig.apply(fx.put(1, b"s", b"other"))
    view = rig.overlay()
    view.absorb([fx.put(0, b"new", b"v"), fx.flush(0), fx.put(0, b"k1", b"after")])
    assert [view.kind(key) for key in (b"s", b"t", b"h", b"new")] == [TOMBSTONE] * 4
    assert view.string(b"k1") == b"after"
    assert view.other(1).string(b"s") == b"other"
    view.absorb([fx.put_element(0, b"h", HASH, b"z", b"9")])
    found = view.hash(b"h")
    assert found is not None and list(found.items()) == [(b"z", b"9", 0)]


def test_effects_in_another_database(rig: Rig) -> None:
    view = rig.overlay()
    view.absorb([fx.put(1, b"s", b"there"), fx.delete(0, b"s")])
    assert view.string(b"s") is None and view.other(1).string(b"s") == b"there"
    assert view.other(1).other(0).string(b"s") is None
    with pytest.raises(CommandError) as caught:
        view.other(3)
    assert caught.value.reply == DB_INDEX


def test_a_pending_swap(rig: Rig) -> None:
    rig.apply(fx.put(1, b"s", b"one"))
    view = rig.overlay()
    view.absorb([fx.swap(0, 1), fx.swap(1, 2)])
    assert [view.other(db).string(b"s") for db in range(3)] == [b"one", None, b"value"]
    assert rig.keyspace.stored == [0, 1, 2]


def random_effect(rng: random.Random, view: View) -> fx.Effect | None:
    """What a handler could have produced on seeing ``view``."""
    key, field = rng.choice(KEYS), rng.choice(FIELDS)
    expiry = rng.choice((0, 0, START_MS + rng.randrange(1, 5000)))
    roll = rng.randrange(100)
    if roll < 25:
        return fx.put(0, key, b"v%d" % rng.randrange(99), expiry)
    if roll < 35:
        return fx.delete(0, key)
    if roll < 50:
        return fx.expire(0, key, expiry)
    if roll < 97:
        if view.kind(key) == STRING:
            return None
        if roll < 75:
            return fx.put_element(0, key, HASH, field, b"f%d" % rng.randrange(99), expiry)
        return fx.remove_element(0, key, field)
    return fx.flush(0)


@pytest.mark.parametrize("seed", range(30))
def test_the_overlay_shows_what_applying_will_bring(seed: int) -> None:
    rng = random.Random(seed)
    rig = Rig(databases=3)
    for _ in range(12):
        view = rig.overlay()
        effects = []
        for _ in range(rng.randrange(1, 7)):
            effect = random_effect(rng, view)
            if effect is not None:
                view.absorb([effect])
                effects.append(effect)
        expected = [answers(view, key) for key in KEYS]
        untouched = [answers(rig.view(), key) for key in KEYS]
        assert untouched == [answers(rig.view(), key) for key in KEYS]
        if rng.random() < 0.3:
            rig.keyspace.cache.clear_all()
        rig.apply(*effects)
        assert [answers(rig.view(), key) for key in KEYS] == expected, effects
        if rng.random() < 0.5:
            rig.keyspace.cache.clear_all()
        assert [answers(rig.view(), key) for key in KEYS] == expected, effects
        rig.keyspace.cache.check_invariants()
