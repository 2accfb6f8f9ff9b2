from __future__ import annotations

import pytest

from respkv.config.kinds import BufferLimit
from respkv.config.parser import INCLUDE_DEPTH_MAX, UNSAFE, ConfigFileError, ConfigReadError, load
from respkv.config.reading import FileReader
from respkv.env.posix import PosixFileSystem


class Files:
    """A Reader over a dict; a path that ends in * names all paths with its beginning."""

    def __init__(self, **texts: str) -> None:
        self.texts = {name.replace("_", "."): text for name, text in texts.items()}

    def expand(self, pattern: str) -> list[str]:
        if not pattern.endswith("*"):
            return [pattern]
        return sorted(name for name in self.texts if name.startswith(pattern[:-1]))

    def read(self, path: str) -> str:
        if path not in self.texts:
            raise ConfigReadError(path, "No such file or directory")
        return self.texts[path]


COMMANDS = ("get", "set", "config")


def knows(name: str) -> bool:
    return name in COMMANDS


@pytest.mark.parametrize(
    ("text", "number", "line", "reason"),
    [
        ("foo bar", 1, "foo bar", "Bad directive or wrong number of arguments"),
        ("maxclients", 1, "maxclients", "wrong number of arguments"),
        ("maxclients 1 2", 1, "maxclients 1 2", "wrong number of arguments"),
        ("bind", 1, "bind", "wrong number of arguments"),
        ('\n\n timeout "1"x ', 3, 'timeout "1"x', "Unbalanced quotes in configuration line"),
        ("# c\r\n\r\n  maxmemory  foo \r\n", 3, "maxmemory  foo", "argument must be a memory value"),
        ("save 1", 1, "save 1", "Invalid save parameters"),
        ("databases 0", 1, "databases 0", "argument must be between 1 and 2147483647 inclusive"),
        ("rename-command get", 1, "rename-command get", "Bad directive or wrong number of arguments"),
        ("rename-command foo bar", 1, "rename-command foo bar", "No such command in rename-command"),
        ("rename-command get set", 1, "rename-command get set", "Target command name already exists"),
        ("include", 1, "include", "Bad directive or wrong number of arguments"),
        ("loadmodule", 1, "loadmodule", "Bad directive or wrong number of arguments"),
        ("list-max-ziplist-entries 5\nfoo", 2, "foo", "Bad directive or wrong number of arguments"),
        ("tls-port 5", 1, "tls-port 5", f"'tls-port' is {UNSAFE}"),
        ("user foo on nopass", 1, "user foo on nopass", f"'user' is {UNSAFE}"),
        ("aclfile /a", 1, "aclfile /a", f"'aclfile' is {UNSAFE}"),
        ("slaveof a 1", 1, "slaveof a 1", f"'slaveof' is {UNSAFE}"),
    ],
)
def test_errors(text: str, number: int, line: str, reason: str) -> None:
    with pytest.raises(ConfigFileError) as caught:
        load(text, knows_command=knows)
    assert (caught.value.number, caught.value.line, caught.value.reason) == (number, line, reason)
    assert caught.value.report == (
        f"\n*** FATAL CONFIG FILE ERROR (Redis 7.4.0) ***\n"
        f"Reading the configuration file, at line {number}\n>>> '{line}'\n{reason}\n"
    )


def test_the_report_names_the_version_that_was_set() -> None:
    with pytest.raises(ConfigFileError) as caught:
        load("respkv-reported-version 7.2.5\nfoo")
    assert "(Redis 7.2.5)" in caught.value.report


def test_values_aliases_quotes_and_case() -> None:
    loaded = load(
        "PORT 7000\nmaxmemory 1mb\nslave-priority 5\nlua-time-limit 9\nrequirepass 'a b'\n"
        'requirepass "\\xff"\nreplicaof no one\ntls-port 0\nlist-max-ziplist-value 3\n'
        'bind 127.0.0.1 -::1\nsave 900 1\nsave "60 100"\nclient-output-buffer-limit pubsub 1 2 3'
    )
    limits = loaded.values.pop("client-output-buffer-limit")
    assert limits[2] == BufferLimit(1, 2, 3)  # type: ignore[index]
    assert loaded.values == {
        "port": 7000,
        "maxmemory": 1 << 20,
        "replica-priority": 5,
        "busy-reply-threshold": 9,
        "requirepass": "\udcff",
        "replicaof": "",
        "tls-port": 0,
        "bind": ("127.0.0.1", "-::1"),
        "save": ((900, 1), (60, 100)),
    }


def test_an_empty_save_forgets_the_rules_before_it() -> None:
    assert load('save 900 1\nsave ""\nsave 60 1').values["save"] == ((60, 1),)
    assert load('save 900 1\nsave ""').values["save"] == ()


def test_rename_command() -> None:
    loaded = load(
        'rename-command CONFIG ""\nrename-command get fetch\nrename-command fetch f', knows_command=knows
    )
    assert loaded.renamed == {"config": "", "get": "f"}
    swapped = load("rename-command get x\nrename-command set get", knows_command=knows)
    assert swapped.renamed == {"get": "x", "set": "get"}


def test_include_reads_in_place_and_later_lines_win() -> None:
    files = Files(a_conf="timeout 1\nhz 20", b_conf="timeout 2")
    loaded = load("timeout 9\ninclude *\nhz 30", reader=files)
    assert loaded.values == {"timeout": 2, "hz": 30}
    assert load("include nothing*", reader=files).values == {}


def test_include_of_a_missing_file() -> None:
    with pytest.raises(ConfigReadError) as caught:
        load("include /x.conf", reader=Files())
    assert caught.value.report == "Fatal error, can't open config file '/x.conf': No such file or directory"


def test_include_without_end() -> None:
    with pytest.raises(ConfigFileError, match="include each other"):
        load("include a.conf", reader=Files(a_conf="include a.conf"))
    assert INCLUDE_DEPTH_MAX > 1


def test_an_error_in_an_included_file_names_the_line_there() -> None:
    with pytest.raises(ConfigFileError) as caught:
        load("\n\ninclude a.conf", reader=Files(a_conf="\nfoo"))
    assert caught.value.number == 2 and caught.value.line == "foo"
    assert caught.value.report.endswith("at line 2\n>>> 'foo'\nBad directive or wrong number of arguments\n"
                                        "(in the file 'a.conf')\n")


@pytest.mark.parametrize(
    ("text", "path"), [("foo", "main.conf"), ("include a.conf", "a.conf"), ("port 1\nfoo", ""), ("\n\nfoo", "")]
)
def test_an_error_names_the_file_unless_it_is_in_an_option(text: str, path: str) -> None:
    with pytest.raises(ConfigFileError) as caught:
        load(text, reader=Files(a_conf="foo"), path="main.conf", path_lines=1)
    assert caught.value.path == path
    assert caught.value.report.endswith(f"(in the file '{path}')\n" if path else "arguments\n")


def test_file_reader(tmp_path: object) -> None:
    fs = PosixFileSystem()
    root = str(tmp_path)
    fs.mkdir(f"{root}/x1/y")
    fs.mkdir(f"{root}/x2")
    for path in ("x1/b.conf", "x1/a.conf", "x1/.hidden.conf", "x1/c.txt", "x2/d.conf"):
        fs.write_file(f"{root}/{path}", b"requirepass \xff\n")
    reader = FileReader(fs)
    assert reader.expand(f"{root}/x1/*.conf") == [f"{root}/x1/a.conf", f"{root}/x1/b.conf"]
    assert reader.expand(f"{root}/x?/[bd].conf") == [f"{root}/x1/b.conf", f"{root}/x2/d.conf"]
    assert reader.expand(f"{root}/x1/.h*") == [f"{root}/x1/.hidden.conf"]
    assert reader.expand(f"{root}/*/nothing") == []
    assert reader.expand(f"{root}/x1/a.conf/*") == []
    assert reader.expand("plain") == ["plain"]
    assert reader.read(f"{root}/x2/d.conf") == "requirepass \udcff\n"
    with pytest.raises(ConfigReadError) as caught:
        reader.read(f"{root}/none")
    assert caught.value.report.endswith("none': No such file or directory")
