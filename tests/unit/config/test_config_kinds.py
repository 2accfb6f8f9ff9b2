from __future__ import annotations

import pytest

from respkv.config import kinds, schema
from respkv.config.kinds import BufferLimit, ConfigError, OutputLimits, Value


def parse(name: str, text: str, *, current: Value | None = None, loading: bool = False) -> Value:
    row = schema.BY_ANY_NAME[name]
    args = [text] if not row.kind.many else text.split(" ") if text else []
    return row.kind.parse(args, row.default if current is None else current, loading=loading)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("maxclients", "abc", "argument couldn't be parsed into an integer"),
        ("maxclients", " 1", "argument couldn't be parsed into an integer"),
        ("maxclients", "01", "argument couldn't be parsed into an integer"),
        ("maxclients", "-5", "argument must be between 1 and 4294967295 inclusive"),
        ("timeout", "-1", "argument must be between 0 and 2147483647 inclusive"),
        ("slowlog-max-len", "99999999999999999999", "argument couldn't be parsed into an integer"),
        ("slowlog-log-slower-than", "-5", "argument must be between -1 and 9223372036854775807 inclusive"),
        ("maxmemory", "foo", "argument must be a memory value"),
        ("maxmemory", "-1", "argument must be a memory value"),
        ("maxmemory", "1.5gb", "argument must be a memory value"),
        ("maxmemory", "1tb", "argument must be a memory value"),
        ("maxmemory", "kb", "argument must be a memory value"),
        ("row-cache-bytes", "99999999999999999999gb",
         "argument must be between 0 and 9223372036854775807 inclusive"),
        ("proc-title-template", "", "template format is invalid or contains unknown variables"),
        ("shutdown-on-sigterm", "",
         "argument(s) must be one of the following: default, save, nosave, now, force"),
        ("proto-max-bulk-len", "1", "argument must be between 1048576 and 9223372036854775807 inclusive"),
        ("maxmemory-clients", "500%", "percentage argument must be less or equal to 100"),
        ("maxmemory-clients", "foo", "argument must be a memory or percent value"),
        ("maxmemory-clients", "-5%", "argument must be a memory or percent value"),
        ("unixsocketperm", "9", "argument couldn't be parsed as an octal number"),
        ("unixsocketperm", "1000", "argument must be between 0 and 777 inclusive"),
        ("appendonly", "maybe", "argument must be 'yes' or 'no'"),
        ("appendfsync", "foo", "argument(s) must be one of the following: everysec, always, no"),
        ("save", "a b", "Invalid save parameters"),
        ("save", "900", "Invalid save parameters"),
        ("save", "0 1", "Invalid save parameters"),
        ("save", "900 1 60 -1", "Invalid save parameters"),
        ("save", "900 1  300 1", "Invalid save parameters"),
        ("client-output-buffer-limit", "foo 1 2 3",
         "Invalid client class specified in buffer limit configuration."),
        ("client-output-buffer-limit", "normal 1 2",
         "Wrong number of arguments in buffer limit configuration."),
        ("client-output-buffer-limit", "normal x 2 3",
         "Error in hard, soft or soft_seconds setting in buffer limit configuration."),
        ("client-output-buffer-limit", "normal 1 2 x",
         "Error in hard, soft or soft_seconds setting in buffer limit configuration."),
        ("notify-keyspace-events", "q", "Invalid event class character. Use 'Ag$lshzxeKEtmdn'."),
        ("bind", " ".join(["1.1.1.1"] * 17), "Too many bind addresses specified."),
        ("latency-tracking-info-percentiles", "101",
         "latency-tracking-info-percentiles parameters should sit between [0.0,100.0]"),
        ("latency-tracking-info-percentiles", "a", "Invalid latency-tracking-info-percentiles parameters"),
        ("latency-tracking-info-percentiles", "nan", "Invalid latency-tracking-info-percentiles parameters"),
        ("oom-score-adj-values", "1 2", "wrong number of arguments"),
        ("oom-score-adj-values", "1 2 3000",
         "Invalid oom-score-adj-values, elements must be between -2000 and 2000."),
        ("shutdown-on-sigint", "foo",
         "argument(s) must be one of the following: default, save, nosave, now, force"),
        ("shutdown-on-sigint", "save nosave",
         "shutdown options SAVE and NOSAVE can't be used simultaneously"),
        ("proc-title-template", "{x}", "template format is invalid or contains unknown variables"),
        ("dbfilename", "a/b", "dbfilename can't be a path, just a filename"),
        ("appenddirname", "a/b", "appenddirname can't be a path, just a dirname"),
        ("cluster-announce-hostname", "a b",
         "Hostnames may only contain alphanumeric characters, hyphens or dots"),
        ("replicaof", "a b", "Invalid master port"),
        ("replicaof", "a", "wrong number of arguments"),
        ("respkv-reported-version", "seven", "must be a version such as 7.4.0"),
    ],
)  # fmt: skip
def test_reasons(name: str, text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(name, text)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("name", "text", "value", "shown"),
    [
        ("maxmemory", "1gb", 1 << 30, "1073741824"),
        ("maxmemory", "10kB", 10240, "10240"),
        ("maxmemory", "10k", 10000, "10000"),
        ("maxmemory", "5b", 5, "5"),
        ("maxmemory", "", 0, "0"),
        ("maxmemory", "99999999999999999999", (1 << 64) - 1, "18446744073709551615"),
        ("maxmemory-clients", "5%", -5, "5%"),
        ("maxmemory-clients", "5", 5, "5"),
        ("unixsocketperm", "755", 0o755, "755"),
        ("appendonly", "YES", True, "yes"),
        ("appendfsync", "EVERYSEC", "everysec", "everysec"),
        ("save", "900 1 60 100", ((900, 1), (60, 100)), "900 1 60 100"),
        ("save", "", (), ""),
        ("hz", "0", 1, "1"),
        ("hz", "1000", 500, "500"),
        ("notify-keyspace-events", "KEA", "AKE", "AKE"),
        ("notify-keyspace-events", "AKEm", "AKEm", "AKEm"),
        ("notify-keyspace-events", "g$K", "g$K", "g$K"),
        ("notify-keyspace-events", "Kx$", "$xK", "$xK"),
        ("latency-tracking-info-percentiles", "50 99.99 0", ("50", "99.99", "0"), "50 99.99 0"),
        ("shutdown-on-sigint", "now save", ("save", "now"), "save now"),
        ("shutdown-on-sigint", "default", (), "default"),
        ("bind", "127.0.0.1 -::1", ("127.0.0.1", "-::1"), "127.0.0.1 -::1"),
        ("bind", "", (), ""),
        ("oom-score-adj-values", "-1 2 3", (-1, 2, 3), "-1 2 3"),
        ("replicaof", "no one", "", ""),
        ("replicaof", "host 6379", "host 6379", "host 6379"),
        ("requirepass", "a b", "a b", "a b"),
    ],
)
def test_values(name: str, text: str, value: Value, shown: str) -> None:
    found = parse(name, text)
    assert found == value and type(found) is type(value)
    kind = schema.BY_ANY_NAME[name].kind
    assert kind.render(found) == shown
    assert parse(name, shown) == value


def test_buffer_limits_change_only_the_classes_they_name() -> None:
    found = parse("client-output-buffer-limit", "normal 1mb 2 3 slave 1 2 3")
    assert isinstance(found, OutputLimits)
    assert found.normal == BufferLimit(1 << 20, 2, 3)
    assert found.replica == BufferLimit(1, 2, 3)
    assert found.pubsub == BufferLimit(32 << 20, 8 << 20, 60)
    assert parse("client-output-buffer-limit", "", current=found) == found
    kind = schema.BY_ANY_NAME["client-output-buffer-limit"].kind
    assert kind.render(found) == "normal 1048576 2 3 slave 1 2 3 pubsub 33554432 8388608 60"


def test_save_rules_add_up_only_while_loading() -> None:
    assert parse("save", "60 1", current=((900, 1),), loading=True) == ((900, 1), (60, 1))
    assert parse("save", "60 1", current=((900, 1),)) == ((60, 1),)
    assert parse("save", "", current=((900, 1),), loading=True) == ()


def test_memory_text_is_short_and_exact() -> None:
    for count in (0, 1, 1000, 1024, 1 << 20, (1 << 20) + 1024, 3 << 30, (1 << 64) - 1):
        assert kinds.memory_bytes(kinds.memory_text(count)) == count
    assert kinds.memory_text(64 << 20) == "64mb"
    assert kinds.memory_text(1000) == "1000"
