"""Options of the servers: kept with the ring, the same for all nodes, changed only on purpose."""

from __future__ import annotations

import json
import random
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from compat.load.clusters import is_free
from respkv.cli import cluster
from respkv.cli.kept_options import same, shown
from respkv.cli.local_node import LocalRingError
from respkv.cli.local_ring import LocalRing
from respkv.cluster.formation import FormationState
from respkv.cluster.ring import Member, first_ring

#: In place of a server: it says what it was started with and ends.
ECHO = [sys.executable, "-c", "import sys; print('given', *sys.argv[2:], sep='|'); sys.exit(3)"]
SYNC = ["--appendfsync", "always"]


def started_with(directory: Path, options: list[str] | None, *, replace: bool = False) -> str:
    """What a server gets when a ring is started."""
    ring = LocalRing.load(directory, say=lambda text: None)
    with pytest.raises(LocalRingError, match="ended, status 3") as caught:
        ring.start(options, replace=replace, timeout_s=20, command=ECHO)
    return str(caught.value).partition("given|")[2]


def refused(directory: Path, options: list[str], *, replace: bool = False) -> str:
    """Why a ring is not started with options."""
    ring = LocalRing.load(directory, say=lambda text: None)
    with pytest.raises(LocalRingError) as caught:
        ring.start(options, replace=replace, timeout_s=20, command=ECHO)
    assert "given|" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def ring(tmp_path: Path) -> LocalRing:
    """A ring of one that has not been started yet."""
    base = next(
        port for port in iter(lambda: random.randrange(10_000, 20_000), 0)
        if all(is_free(port + step) for step in (0, 100, 10_000))
    )  # fmt: skip
    return LocalRing.create(tmp_path / "ring", nodes=1, base_port=base, say=lambda text: None)


def form(ring: LocalRing) -> None:
    """From now on there is a ring, which its node has saved."""
    (node,) = ring.nodes
    member = Member(
        node_id=b"n" * 16, short=1, client_host="h", client_port=node.port, alternate_port=node.alternate_port,
        cluster_enabled=False, node_host="h", node_port=node.link_port,
    )  # fmt: skip
    decided = first_ring(b"c" * 16, seed=1, replicas=1, members=[member])
    (node.path("") / "CLUSTER").write_bytes(FormationState(b"c" * 16, 1, decided).encode())


def test_later_starts_use_what_the_first_one_was_given(ring: LocalRing) -> None:
    assert started_with(ring.directory, SYNC) == "--appendfsync|always"
    form(ring)
    assert started_with(ring.directory, None) == "--appendfsync|always"
    assert started_with(ring.directory, ["--APPENDFSYNC always"]) == "--appendfsync|always"
    assert stat.S_IMODE((ring.directory / "ring.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("options", [[], ["--appendfsync", "no"], [*SYNC, "--loglevel", "verbose"]])
def test_others_are_refused(ring: LocalRing, options: list[str]) -> None:
    started_with(ring.directory, SYNC)
    form(ring)
    reason = refused(ring.directory, options)
    assert "--appendfsync always" in reason and (shown(options) or "none") in reason and "--replace-options" in reason
    assert started_with(ring.directory, None) == "--appendfsync|always"


def test_a_ring_that_was_started_without_options(ring: LocalRing) -> None:
    assert started_with(ring.directory, None) == ""
    form(ring)
    assert "none" in refused(ring.directory, SYNC)


def test_they_are_replaced_on_purpose(ring: LocalRing) -> None:
    started_with(ring.directory, SYNC)
    form(ring)
    assert started_with(ring.directory, ["--loglevel", "verbose"], replace=True) == "--loglevel|verbose"
    assert started_with(ring.directory, None) == "--loglevel|verbose"
    assert started_with(ring.directory, [], replace=True) == started_with(ring.directory, None) == ""


def test_they_are_not_replaced_while_a_node_runs(ring: LocalRing) -> None:
    started_with(ring.directory, SYNC)
    (node,) = ring.nodes
    code = "import signal; print(flush=True); signal.pause()"
    words = [sys.executable, "-c", code, str(node.path(".conf"))]
    for formed in (False, True):
        if formed:
            form(ring)
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline()
            node.path(".pid").write_text(str(process.pid))
            try:
                assert "node 1 runs" in refused(ring.directory, [], replace=True)
            finally:
                process.kill()
    assert started_with(ring.directory, None) == "--appendfsync|always"


def test_until_there_is_a_ring_a_slip_can_be_mended(ring: LocalRing) -> None:
    assert started_with(ring.directory, ["--no-such", "1"]) == "--no-such|1"
    assert started_with(ring.directory, SYNC) == "--appendfsync|always"
    assert started_with(ring.directory, None) == "--appendfsync|always"


def test_a_ring_of_before_keeps_what_it_is_given_next(ring: LocalRing) -> None:
    path = ring.directory / "ring.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({name: settings[name] for name in ("nodes", "base_port")}))
    ring.nodes[0].path("").mkdir()
    form(ring)
    assert started_with(ring.directory, SYNC) == started_with(ring.directory, None) == "--appendfsync|always"


@pytest.mark.parametrize("options", ['"x"', "[1]", "{}"])
def test_damaged_options(ring: LocalRing, options: str) -> None:
    (ring.directory / "ring.json").write_text(f'{{"nodes": 1, "base_port": 7001, "options": {options}}}')
    with pytest.raises(LocalRingError, match=r"ring\.json"):
        LocalRing.load(ring.directory, say=lambda text: None)


def test_the_same_in_other_words() -> None:
    policies = ["--conflict-policy", "a:", "lww", "--conflict-policy", "b:", "siblings"]
    assert same(["--colocate", "jobs:", *policies], [*policies, "--colocate jobs:"])
    assert not same(policies, [*policies[3:], *policies[:3]]), "later ones win"
    assert not same(["--save", ""], []) and same(["--save", ""], ['--save ""'])


def test_passwords_are_not_shown() -> None:
    text = shown(["--requirepass", "pass word", "--REQUIREPASS other", "--save", "", "--logfile", "a b"])
    assert text == '--requirepass *** --requirepass *** --save "" --logfile "a b"'


def test_what_replaces_has_to_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cluster.main(["start", "--dir", str(tmp_path), "--replace-options"]) == 1
    assert "--replace-options takes what follows --" in capsys.readouterr().err
    assert not (tmp_path / "ring.json").exists()
