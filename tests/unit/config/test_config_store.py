from __future__ import annotations

import random

import pytest

from respkv.base.errors import CommandError
from respkv.config import schema
from respkv.config.kinds import BufferLimit, ConfigError, Value
from respkv.config.parser import UNSAFE, load
from respkv.config.store import ConfigStore, command_line


def refusal(store: ConfigStore, *words: bytes, local: bool = False) -> bytes:
    """The error line of CONFIG SET; the store must be as before."""
    before = store.match([b"*"])
    with pytest.raises(CommandError) as caught:
        store.set(list(zip(words[::2], words[1::2])), local=local)
    assert store.match([b"*"]) == before
    return caught.value.reply


def test_typed_values() -> None:
    store = ConfigStore({"requirepass": "x", "save": ((1, 2),)})
    assert store.get("appendfsync") == "everysec"
    assert store.value("appendonly") is True and store.flag("protected-mode") is True
    assert store.integer("maxclients") == 10000
    assert store.string("requirepass") == "x"
    assert store.words("bind") == ("*", "-::*")
    assert store.save_points() == ((1, 2),)
    assert store.output_limits().pubsub == BufferLimit(32 << 20, 8 << 20, 60)
    assert store.text("slave-priority") == b"100"
    with pytest.raises(KeyError):
        store.value("nothing")
    with pytest.raises(AssertionError):
        store.integer("appendonly")


def test_get_lists_each_name_once_with_aliases() -> None:
    store = ConfigStore()
    assert store.match([b"max?emory", b"MAXMEMORY", b"maxmemory"]) == [(b"maxmemory", b"0")]
    assert store.match([b"nothing"]) == []
    names = [name for name, _ in store.match([b"*priority", b"*time-limit"])]
    assert names == [b"lua-time-limit", b"replica-priority", b"slave-priority"]
    assert store.match([b"slaveof"]) == [(b"slaveof", b"")]


def test_a_full_name_is_echoed_as_it_was_first_asked() -> None:
    store = ConfigStore()
    assert store.match([b"MAXMEMORY", b"max?emory", b"maxmemory"]) == [(b"MAXMEMORY", b"0")]
    assert store.match([b"Slave-Priority"]) == [(b"Slave-Priority", b"100")]
    assert store.match([b"MAX?EMORY"]) == [(b"maxmemory", b"0")]
    # The sign of the kelvin is no k, though its lower case is one.
    assert store.match(["tcp-\u212aeepalive".encode(), b"tcp-\xffkeepalive"]) == []


def test_hidden_directives_must_be_named_in_full() -> None:
    store = ConfigStore()
    assert store.match([b"rdb-key-save-delay"]) == [(b"rdb-key-save-delay", b"0")]
    assert store.match([b"rdb-key-save-dela*"]) == []


def test_set_several() -> None:
    store = ConfigStore()
    store.set(
        [
            (b"TIMEOUT", b"5"),
            (b"maxmemory-clients", b"5%"),
            (b"save", b"900 1 60 100"),
            (b"requirepass", b"\xff"),
        ]
    )
    assert store.integer("timeout") == 5
    assert store.text("maxmemory-clients") == b"5%"
    assert store.save_points() == ((900, 1), (60, 100))
    assert store.text("requirepass") == b"\xff"
    store.check_invariants()
    assert store.stats() == {"not_default": 4, "changes": 1}


def test_set_replaces_save_rules() -> None:
    store = ConfigStore({"save": ((1, 2),)})
    store.set([(b"save", b"3 4")])
    assert store.save_points() == ((3, 4),)
    store.set([(b"save", b"")])
    assert store.save_points() == ()


def test_two_names_of_one_directive_may_be_set_together() -> None:
    store = ConfigStore()
    store.set([(b"slave-priority", b"1"), (b"replica-priority", b"2")])
    assert store.integer("replica-priority") == 2


@pytest.mark.parametrize(
    ("words", "reply"),
    [
        ([b"foo", b"x"], b"-ERR Unknown option or number of arguments for CONFIG SET - 'foo'\r\n"),
        (
            [b"hz", b"x", b"foo", b"x"],
            b"-ERR Unknown option or number of arguments for CONFIG SET - 'foo'\r\n",
        ),
        ([b"a\r\nb", b"x"], b"-ERR Unknown option or number of arguments for CONFIG SET - 'a  b'\r\n"),
        (
            [b"hz", b"20", b"APPENDFSYNC", b"x"],
            b"-ERR CONFIG SET failed (possibly related to argument 'appendfsync') -"
            b" argument(s) must be one of the following: everysec, always, no\r\n",
        ),
        (
            [b"timeout", b"1", b"timeout", b"2"],
            b"-ERR CONFIG SET failed (possibly related to argument 'timeout') - duplicate parameter\r\n",
        ),
        (
            [b"databases", b"16"],
            b"-ERR CONFIG SET failed (possibly related to argument 'databases') -"
            b" can't set immutable config\r\n",
        ),
        (
            [b"dbfilename", b"x"],
            b"-ERR CONFIG SET failed (possibly related to argument 'dbfilename') -"
            b" can't set protected config\r\n",
        ),
        (
            [b"tls-port", b"1"],
            b"-ERR CONFIG SET failed (possibly related to argument 'tls-port') - "
            + UNSAFE.encode()
            + b"\r\n",
        ),
    ],
)
def test_refusals(words: list[bytes], reply: bytes) -> None:
    assert refusal(ConfigStore(), *words) == reply


def test_protected_directives_open_by_the_gate() -> None:
    store = ConfigStore({"enable-protected-configs": "local"})
    assert b"protected" in refusal(store, b"dbfilename", b"x")
    store.set([(b"dbfilename", b"x")], local=True)
    ConfigStore({"enable-protected-configs": "yes"}).set([(b"dbfilename", b"x")])
    assert store.string("dbfilename") == "x"


def test_every_mutable_value_is_accepted_back() -> None:
    store = ConfigStore({"enable-protected-configs": "yes"})
    before = store.match([b"*"])
    for name, value in before:
        if schema.BY_ANY_NAME[name.decode()].mutable:
            store.set([(name, value)])
    assert store.match([b"*"]) == before


def test_subscribers_hear_changes_only() -> None:
    store = ConfigStore()
    heard: list[Value] = []
    store.subscribe("timeout", heard.append)
    store.set([(b"timeout", b"0"), (b"hz", b"11")])
    store.set([(b"timeout", b"7")])
    assert heard == [7]


def test_a_refusing_subscriber_undoes_everything() -> None:
    store = ConfigStore()
    heard: list[Value] = []

    def refuse(value: Value) -> None:
        raise ConfigError("no room")

    store.subscribe("hz", heard.append)
    store.subscribe("timeout", refuse)
    reply = refusal(store, b"hz", b"20", b"timeout", b"5")
    assert reply == b"-ERR CONFIG SET failed (possibly related to argument 'timeout') - no room\r\n"
    assert heard == [20, 10]


def test_notices_name_what_has_no_effect() -> None:
    store = ConfigStore({"io-threads": 4, "timeout": 5, "maxmemory-policy": "allkeys-lru"})
    assert store.notices() == ["'io-threads' is accepted for compatibility and has no effect"]


def test_warnings_name_what_one_may_rely_on_in_vain() -> None:
    assert ConfigStore({"io-threads": 4}).warnings() == []
    warnings = ConfigStore({"maxmemory-policy": "volatile-ttl"}).warnings()
    assert len(warnings) == 1 and "'maxmemory-policy volatile-ttl' has no effect: nothing is evicted" in warnings[0]


def test_the_log_is_not_forced_to_disk_without_appendonly() -> None:
    store = ConfigStore({"appendfsync": "always"})
    assert store.sync_policy() == "always"
    store.set([(b"appendonly", b"no")])
    assert store.sync_policy() == "no"
    store.set([(b"appendonly", b"yes"), (b"appendfsync", b"everysec")])
    assert store.sync_policy() == "everysec"


def test_rewrite_keeps_comments_order_and_lines_that_are_right() -> None:
    text = "# head\nmaxmemory 1gb\n\ntimeout 5 \n  # middle\nhz 20\ninclude-not x\ntimeout 6\n\n"
    text = text.replace("include-not x\n", "rename-command get g\n")
    store = ConfigStore(load(text).values)
    assert store.rewrite(text) == text.rstrip("\n") + "\n"
    store.set([(b"timeout", b"9"), (b"requirepass", b"a b")])
    assert store.rewrite(text) == (
        "# head\nmaxmemory 1gb\n\ntimeout 9\n  # middle\nhz 20\nrename-command get g\n"
        '# Generated by CONFIG REWRITE\nrequirepass "a b"\n'
    )


def test_rewrite_twice_has_one_signature() -> None:
    store = ConfigStore()
    store.set([(b"hz", b"20")])
    once = store.rewrite("port 6379\n")
    store.set([(b"timeout", b"1")])
    twice = store.rewrite(once)
    assert twice.count("# Generated by CONFIG REWRITE") == 1
    assert load(twice).values == {"port": 6379, "hz": 20, "timeout": 1}


def test_rewrite_writes_defaults_back_over_a_line() -> None:
    store = ConfigStore(load("slave-priority 5\nsave 900 1\nsave 60 1").values)
    store.set([(b"replica-priority", b"100"), (b"save", b"")])
    assert store.rewrite("slave-priority 5\nsave 900 1\nsave 60 1") == 'replica-priority 100\nsave ""\n'


def test_rewrite_of_an_empty_file_without_changes() -> None:
    assert ConfigStore().rewrite("") == ""


class OneFile:
    """A Reader that knows one included file."""

    def __init__(self, text: str) -> None:
        self.text = text

    def expand(self, pattern: str) -> list[str]:
        return [pattern]

    def read(self, path: str) -> str:
        return self.text


@pytest.mark.parametrize(
    ("main", "included"),
    [
        ("timeout 1\ninclude x", "timeout 2\nsave 900 1"),
        ("include x\nsave 60 1", "save 900 1\nhz 50\nclient-output-buffer-limit normal 1 1 1"),
        ("timeout 1\nhz 5", ""),
        ('save ""\ninclude x\n# c', "maxmemory-clients 5%"),
    ],
)
def test_reading_a_rewritten_file_gives_the_live_values(main: str, included: str) -> None:
    rng = random.Random(7)
    changes = {
        b"timeout": [b"0", b"1", b"2", b"9"],
        b"hz": [b"10", b"50", b"5"],
        b"save": [b"", b"900 1", b"60 1 30 2"],
        b"maxmemory-clients": [b"0", b"5%", b"1mb"],
        b"client-output-buffer-limit": [b"normal 0 0 0", b"replica 1 2 3"],
        b"notify-keyspace-events": [b"", b"KEA", b"$xK"],
        b"shutdown-on-sigint": [b"default", b"save now"],
        b"requirepass": [b"", b'"\xff\n'],
    }
    reader = OneFile(included)
    for _ in range(60):
        store = ConfigStore(load(main, reader=reader).values)
        for name in rng.sample(sorted(changes), rng.randrange(len(changes))):
            store.set([(name, rng.choice(changes[name]))])
        again = ConfigStore(load(store.rewrite(main), reader=reader).values)
        assert again.match([b"*"]) == store.match([b"*"])
        store.check_invariants()


def test_command_line_quotes() -> None:
    assert command_line("save", "900 1") == 'save "900 1"'
    assert "ConfigStore without file" in repr(ConfigStore())
