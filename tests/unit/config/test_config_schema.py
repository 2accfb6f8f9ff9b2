from __future__ import annotations

import json
from pathlib import Path

import pytest

from respkv.config import schema
from respkv.config.directive import Effect
from respkv.config.parser import load, parse_line
from respkv.config.store import ConfigStore
from respkv.config.syntax import split_words

REFERENCE = Path(__file__).with_name("redis_7_0_defaults.json")
CONF = Path(__file__).parents[3] / "conf" / "respkv.conf"
#: What is not as in Redis, on purpose.
DIFFERENT = {"appendonly": "yes", "save": ""}


def reference() -> dict[str, str]:
    return json.loads(REFERENCE.read_text())  # type: ignore[no-any-return]


def test_every_name_of_redis_is_known_with_its_default() -> None:
    ours = {name.decode(): value.decode() for name, value in ConfigStore().match([b"*"])}
    theirs = reference()
    assert [name for name in theirs if name not in ours] == []
    differing = {name: ours[name] for name in theirs if ours[name] != theirs[name]}
    assert differing == DIFFERENT


def test_every_default_is_accepted_back_in_all_forms() -> None:
    for name, row in schema.DIRECTIVES.items():
        text = row.kind.render(row.default)
        args = [text] if not row.kind.many else text.split(" ") if text else []
        assert row.kind.parse(args, row.default, loading=False) == row.default, name
        value = row.default
        for line in row.kind.lines(name, row.default):
            words = split_words(line)
            assert words is not None and words[0] == name
            value = parse_line(row, words[1:], value)
        assert value == row.default, name


def test_help_is_one_sentence_and_kinds_describe_themselves() -> None:
    for name, row in schema.DIRECTIVES.items():
        assert row.help.endswith("."), name
        assert row.kind.describe(), name
        assert name == name.lower()


def test_aliases_name_their_row() -> None:
    assert schema.BY_ANY_NAME["slaveof"].name == "replicaof"
    assert schema.BY_ANY_NAME["lua-time-limit"].name == "busy-reply-threshold"
    assert schema.BY_ANY_NAME["hash-max-ziplist-entries"].name == "hash-max-listpack-entries"
    assert "slaveof" not in schema.DIRECTIVES


def test_what_would_be_unsafe_to_ignore_is_fatal() -> None:
    fatal = [name for name, row in schema.DIRECTIVES.items() if row.effect is Effect.FATAL_IF_SET]
    assert sorted(fatal) == ["aclfile", "replicaof", "tls-port"]


def test_the_annotated_file_is_what_the_schema_renders() -> None:
    assert CONF.read_text() == schema.render_conf()


def test_the_annotated_file_sets_only_defaults_and_names_every_directive() -> None:
    text = schema.render_conf()
    for name, value in load(text).values.items():
        assert value == schema.DIRECTIVES[name].default
    # With the marks taken off, what is kept can be read as well.
    kept = [
        line[2:]
        for line in text.split("\n")
        if line.startswith("# ")
        and line[2:].split(" ")[0] in schema.DIRECTIVES
        and schema.DIRECTIVES[line[2:].split(" ")[0]].effect is not Effect.HONOURED
    ]
    assert load("\n".join(kept)).values
    shown = [name for name, row in schema.DIRECTIVES.items() if not row.hidden]
    assert [name for name in shown if f"\n{name} " not in text and f"\n# {name} " not in text] == []


@pytest.mark.parametrize("name", ["port", "maxclients", "databases", "timeout"])
def test_numbers_are_ints(name: str) -> None:
    assert isinstance(schema.DIRECTIVES[name].default, int)
