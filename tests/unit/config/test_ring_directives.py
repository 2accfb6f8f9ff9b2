"""The directives of a ring: their kinds, how lines add up, and that nothing is lost on the way back to a file."""

from __future__ import annotations

import pytest

from respkv.config import schema
from respkv.config.directive import Effect
from respkv.config.kinds import ConfigError, Value
from respkv.config.parser import ConfigFileError, load
from respkv.config.ring_kinds import NODES_MAX, join_address, split_address
from respkv.config.store import ConfigStore


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("join nowhere", "'nowhere' is no host:port"),
        ("join a:0", "'a:0' is no host:port"),
        ("join a:65536", "'a:65536' is no host:port"),
        ("join a:07", "'a:07' is no host:port"),
        ("join :7000", "':7000' is no host:port"),
        ("join []:7000", "'[]:7000' is no host:port"),
        ("join a,b:7000", "'a,b:7000' is no host:port"),
        ("join ::1:7000", "'::1:7000' is no host:port; an address of IPv6 goes in brackets"),
        ("join a:1 b", "'b' is no host:port"),
        ("join", "wrong number of arguments"),
        ("join " + " ".join(f"h{n}:1" for n in range(NODES_MAX + 1)), f"at most {NODES_MAX} nodes can be named"),
        ("cluster-size 1025", "argument must be between 0 and 1024 inclusive"),
        ("replication-factor 0", "argument must be between 1 and 16 inclusive"),
        ("read-quorum 17", "argument must be between 0 and 16 inclusive"),
        ("consistency-level strong", "argument(s) must be one of the following: eventual, quorum, all"),
        ("level-for a:", "wrong number of arguments"),
        ("level-for a: strong", "argument(s) must be one of the following: eventual, quorum, all"),
        ('level-for "" all', "a prefix is not empty"),
        ('level-for "a b" all', "a prefix holds no blanks"),
        ("conflict-policy a: newest", "a conflict policy is lww, siblings or merge:NAME"),
        ("conflict-policy a: lww:x", "a conflict policy is lww, siblings or merge:NAME"),
        ("conflict-policy a: merge:", "a conflict policy is lww, siblings or merge:NAME"),
        ("conflict-policy a: merge:a/b", "a conflict policy is lww, siblings or merge:NAME"),
        ('colocate "a\\tb" c', "a prefix holds no blanks"),
        ("cluster-announce-ip a,b", "must be an address or a host name: printable, without blanks , @ [ ] quotes \\"),
        ("cluster-announce-bus-ip " + "x" * 256,
         "must be an address or a host name: printable, without blanks , @ [ ] quotes \\"),
        ("cluster-port 65536", "argument must be between 0 and 65535 inclusive"),
        ("hints-max-bytes lots", "argument must be a memory value"),
        ("sloppy-quorum maybe", "argument must be 'yes' or 'no'"),
    ],
)  # fmt: skip
def test_a_bad_line_is_refused_with_its_place(line: str, reason: str) -> None:
    with pytest.raises(ConfigFileError) as caught:
        load(f"port 1\n{line}", path="r.conf", path_lines=2)
    assert (caught.value.reason, caught.value.number, caught.value.line) == (reason, 2, line)
    assert caught.value.report.endswith("(in the file 'r.conf')\n")


@pytest.mark.parametrize(
    ("text", "name", "value", "shown"),
    [
        ("join a:1\njoin b:2 a:1\njoin [::1]:3", "join", ("a:1", "b:2", "[::1]:3"), "a:1 b:2 [::1]:3"),
        ('join a:1\njoin ""\njoin b:2', "join", ("b:2",), "b:2"),
        ('join "a:1 b:2"', "join", ("a:1", "b:2"), "a:1 b:2"),
        ("colocate a: b:\ncolocate c: a:", "colocate", ("a:", "b:", "c:"), "a: b: c:"),
        ('colocate "\\xff"', "colocate", ("\udcff",), "\udcff"),
        ("level-for a: all\nlevel-for b: Quorum\nlevel-for a: eventual", "level-for",
         (("a:", "eventual"), ("b:", "quorum")), "a: eventual b: quorum"),
        ('level-for a: all\nlevel-for ""', "level-for", (), ""),
        ('conflict-policy "" siblings\nconflict-policy a: MERGE:Max', "conflict-policy",
         (("", "siblings"), ("a:", "merge:Max")), " siblings a: merge:Max"),
        ("cluster-enabled yes", "cluster-enabled", True, "yes"),
        ("cluster-announce-ip fe80::1", "cluster-announce-ip", "fe80::1", "fe80::1"),
        ("hints-max-bytes 2gb", "hints-max-bytes", 2 << 30, "2147483648"),
    ],
)  # fmt: skip
def test_lines_add_up(text: str, name: str, value: Value, shown: str) -> None:
    store = ConfigStore(load(text).values)
    assert store.value(name) == value
    assert store.text(name) == shown.encode("utf-8", "surrogateescape")
    assert store.match([name.encode()]) == [(name.encode(), store.text(name))]
    store.check_invariants()
    # What is shown, split as CONFIG SET splits, is the value again.
    kind = schema.DIRECTIVES[name].kind
    args = [shown] if not kind.many else shown.split(" ") if shown else []
    assert kind.parse(args, schema.DIRECTIVES[name].default, loading=False) == value


class Included:
    """One file that others include."""

    def __init__(self, text: str) -> None:
        self.text = text

    def expand(self, pattern: str) -> list[str]:
        return [pattern]

    def read(self, path: str) -> str:
        return self.text


def test_rewriting_gives_the_live_values_whatever_an_included_file_says() -> None:
    common = Included("join a:1\nlevel-for x all\ncolocate p")
    text = "include common.conf\njoin b:2\n"
    options = '\njoin ""\njoin c:3\nlevel-for ""\nlevel-for y quorum\nconflict-policy "" siblings'
    store = ConfigStore(load(text + options, reader=common).values)
    rewritten = store.rewrite(text)
    again = load(rewritten, reader=common).values
    for name in ("join", "level-for", "colocate", "conflict-policy"):
        assert again[name] == store.value(name), name
    assert store.value("join") == ("c:3",) and store.value("level-for") == (("y", "quorum"),)


def test_rewriting_leaves_lines_alone_that_say_it_already() -> None:
    text = "# mine\njoin a:1\njoin b:2\nlevel-for x all\n"
    assert ConfigStore(load(text).values).rewrite(text) == text


def test_a_ring_is_not_changed_while_the_server_runs() -> None:
    fixed = ("bootstrap", "cluster-size", "join", "cluster-secret", "replication-factor", "cluster-enabled",
             "cluster-port", "cluster-announce-ip", "cluster-announce-port", "cluster-announce-bus-port",
             "conflict-policy", "colocate")  # fmt: skip
    for name in fixed:
        row = schema.DIRECTIVES[name]
        assert not row.mutable and row.effect is Effect.HONOURED, name


@pytest.mark.parametrize(
    ("text", "host", "port"), [("h:1", "h", 1), ("10.0.0.1:65535", "10.0.0.1", 65535), ("[::1]:7", "::1", 7)]
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert split_address(text) == (host, port) and join_address(host, port) == text
    with pytest.raises(ConfigError):
        split_address(text + "x")
