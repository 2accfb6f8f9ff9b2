from __future__ import annotations

import pytest

from respkv.cluster.topology import Link
from respkv.commands.info import choose, human
from tests.unit.commands.fake_ring import FakeRing, connect, join
from tests.unit.commands.fake_server import Client, FakeServer

DEFAULT = [
    "Server", "Clients", "Memory", "Persistence", "Stats", "Replication", "CPU", "Modules", "Errorstats", "Cluster",
    "Keyspace",
]  # fmt: skip

#: the fields of Redis 7.4 in their order; what follows in a section must be ours
FIELDS = {
    "Server": "redis_version redis_git_sha1 redis_git_dirty redis_build_id redis_mode os arch_bits monotonic_clock"
    " multiplexing_api atomicvar_api gcc_version process_id process_supervised run_id tcp_port server_time_usec"
    " uptime_in_seconds uptime_in_days hz configured_hz lru_clock executable config_file io_threads_active listener0",
    "Clients": "connected_clients cluster_connections maxclients client_recent_max_input_buffer"
    " client_recent_max_output_buffer blocked_clients tracking_clients pubsub_clients watching_clients"
    " clients_in_timeout_table total_watched_keys total_blocking_keys total_blocking_keys_on_nokey",
    "Memory": "used_memory used_memory_human used_memory_rss used_memory_rss_human used_memory_peak"
    " used_memory_peak_human used_memory_peak_perc used_memory_overhead used_memory_startup used_memory_dataset"
    " used_memory_dataset_perc allocator_allocated allocator_active allocator_resident allocator_muzzy"
    " total_system_memory total_system_memory_human used_memory_lua used_memory_vm_eval used_memory_lua_human"
    " used_memory_scripts_eval number_of_cached_scripts number_of_functions number_of_libraries"
    " used_memory_vm_functions used_memory_vm_total used_memory_vm_total_human used_memory_functions"
    " used_memory_scripts used_memory_scripts_human maxmemory maxmemory_human maxmemory_policy allocator_frag_ratio"
    " allocator_frag_bytes allocator_rss_ratio allocator_rss_bytes rss_overhead_ratio rss_overhead_bytes"
    " mem_fragmentation_ratio mem_fragmentation_bytes mem_not_counted_for_evict mem_replication_backlog"
    " mem_total_replication_buffers mem_clients_slaves mem_clients_normal mem_cluster_links mem_aof_buffer"
    " mem_allocator mem_overhead_db_hashtable_rehashing active_defrag_running lazyfree_pending_objects"
    " lazyfreed_objects",
    "Persistence": "loading async_loading current_cow_peak current_cow_size current_cow_size_age current_fork_perc"
    " current_save_keys_processed current_save_keys_total rdb_changes_since_last_save rdb_bgsave_in_progress"
    " rdb_last_save_time rdb_last_bgsave_status rdb_last_bgsave_time_sec rdb_current_bgsave_time_sec rdb_saves"
    " rdb_last_cow_size rdb_last_load_keys_expired rdb_last_load_keys_loaded aof_enabled aof_rewrite_in_progress"
    " aof_rewrite_scheduled aof_last_rewrite_time_sec aof_current_rewrite_time_sec aof_last_bgrewrite_status"
    " aof_rewrites aof_rewrites_consecutive_failures aof_last_write_status aof_last_cow_size module_fork_in_progress"
    " module_fork_last_cow_size aof_current_size aof_base_size aof_pending_rewrite aof_buffer_length"
    " aof_pending_bio_fsync aof_delayed_fsync",
    "Stats": "total_connections_received total_commands_processed instantaneous_ops_per_sec total_net_input_bytes"
    " total_net_output_bytes total_net_repl_input_bytes total_net_repl_output_bytes instantaneous_input_kbps"
    " instantaneous_output_kbps instantaneous_input_repl_kbps instantaneous_output_repl_kbps rejected_connections"
    " sync_full sync_partial_ok sync_partial_err expired_subkeys expired_keys expired_stale_perc"
    " expired_time_cap_reached_count expire_cycle_cpu_milliseconds evicted_keys evicted_clients evicted_scripts"
    " total_eviction_exceeded_time current_eviction_exceeded_time keyspace_hits keyspace_misses pubsub_channels"
    " pubsub_patterns pubsubshard_channels latest_fork_usec total_forks migrate_cached_sockets"
    " slave_expires_tracked_keys active_defrag_hits active_defrag_misses active_defrag_key_hits"
    " active_defrag_key_misses total_active_defrag_time current_active_defrag_time tracking_total_keys"
    " tracking_total_items tracking_total_prefixes unexpected_error_replies total_error_replies"
    " dump_payload_sanitizations total_reads_processed total_writes_processed io_threaded_reads_processed"
    " io_threaded_writes_processed client_query_buffer_limit_disconnections"
    " client_output_buffer_limit_disconnections reply_buffer_shrinks reply_buffer_expands eventloop_cycles"
    " eventloop_duration_sum eventloop_duration_cmd_sum instantaneous_eventloop_cycles_per_sec"
    " instantaneous_eventloop_duration_usec acl_access_denied_auth acl_access_denied_cmd acl_access_denied_key"
    " acl_access_denied_channel",
    "Replication": "role connected_slaves master_failover_state master_replid master_replid2 master_repl_offset"
    " second_repl_offset repl_backlog_active repl_backlog_size repl_backlog_first_byte_offset repl_backlog_histlen",
    "CPU": "used_cpu_sys used_cpu_user used_cpu_sys_children used_cpu_user_children used_cpu_sys_main_thread"
    " used_cpu_user_main_thread",
    "Cluster": "cluster_enabled",
}


def sections(client: Client, *words: str) -> dict[str, dict[str, str]]:
    text = client("INFO", *words).decode()
    found: dict[str, dict[str, str]] = {}
    for part in text.split("\r\n\r\n") if text else []:
        head, *lines = part.removesuffix("\r\n").split("\r\n")
        assert head.startswith("# ")
        found[head[2:]] = dict(line.split(":", 1) for line in lines)  # type: ignore[misc]
    return found


def test_default_sections_and_their_fields_in_redis_order() -> None:
    client = FakeServer().client()
    found = sections(client)
    client("SET", "k", "v")
    assert list(sections(client)) == DEFAULT
    for name, fields in FIELDS.items():
        wanted = fields.split()
        got = list(found[name])
        assert got[: len(wanted)] == wanted, name
        assert all(field.startswith("respkv_") for field in got[len(wanted) :]), name


def test_the_form() -> None:
    client = FakeServer().client()
    raw = client("INFO", "server", "cluster")
    assert raw.startswith(b"# Server\r\nredis_version:7.4.0\r\n")
    assert raw.endswith(b"\r\n\r\n# Cluster\r\ncluster_enabled:0\r\n")
    client("HELLO", 3)
    reply = client.raw("INFO", "cluster")
    assert isinstance(reply, bytes) and reply.startswith(b"=34\r\ntxt:# Cluster\r\n")


EVERYTHING = [*DEFAULT[:8], "Commandstats", "Errorstats", "Latencystats", "Cluster", "Keyspace"]
EVERYTHING += ["Siblings", "Ring", "Respkv"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], DEFAULT),
        (["default"], DEFAULT),
        (["CPU", "Server"], ["Server", "CPU"]),
        (["nope"], []),
        (["nope", "memory"], ["Memory"]),
        (["respkv"], ["Respkv"]),
        (["default", "commandstats"], [*DEFAULT[:8], "Commandstats", *DEFAULT[8:]]),
        (["all"], EVERYTHING),
        (["everything"], EVERYTHING),
    ],
)
def test_choice_of_sections(words: list[str], names: list[str]) -> None:
    assert choose([word.lower() for word in words]) == names


def test_unknown_section_is_empty() -> None:
    assert FakeServer().client()("INFO", "nope") == b""


def test_keyspace_shows_only_databases_with_keys() -> None:
    fake = FakeServer()
    client = fake.client()
    assert sections(client, "keyspace") == {"Keyspace": {}}
    client("MSET", "a", "1", "b", "2")
    client("SELECT", 3)
    client("SET", "c", "3")
    fake.metrics.attach("databases", lambda: {"expires": {"3": 1}})
    assert sections(client, "keyspace")["Keyspace"] == {
        "db0": "keys=2,expires=0,avg_ttl=0,subexpiry=0",
        "db3": "keys=1,expires=1,avg_ttl=0,subexpiry=0",
    }
    client("FLUSHALL")
    assert sections(client, "keyspace")["Keyspace"] == {}


def test_key_counts_of_many_fresh_keys_are_at_least_an_estimate() -> None:
    client = FakeServer().client()
    for number in range(0, 3000, 100):
        client("MSET", *(word for key in range(number, number + 100) for word in (f"k{key}", "v")))
    line = sections(client, "keyspace")["Keyspace"]["db0"]
    assert 2400 <= int(line.split(",")[0].removeprefix("keys=")) <= 3600
    for _ in range(6):
        line = sections(client, "keyspace")["Keyspace"]["db0"]
    assert line.startswith("keys=3000,")


def test_figures_are_measured() -> None:
    fake = FakeServer()
    one, two = fake.client("127.0.0.1:1"), fake.client("127.0.0.1:2")
    two("SUBSCRIBE", "c")
    one("WATCH", "k")
    one("GET", "absent")
    one("SET", "k", "v")
    one("GET", "k")
    one("NOSUCH")
    one("GET")
    fake.advance_ms(90_000_000)
    fake.metrics.attach("cpu", lambda: {"sys": 1.5, "user": 2.25})
    found = sections(one)
    assert found["Server"]["uptime_in_days"] == "1" and found["Server"]["run_id"] == "ab" * 20
    assert found["Server"]["process_id"] == "4711" and found["Server"]["respkv_version"]
    assert found["Clients"]["connected_clients"] == "2" and found["Clients"]["pubsub_clients"] == "1"
    assert found["Clients"]["watching_clients"] == found["Clients"]["total_watched_keys"] == "1"
    assert found["Memory"]["used_memory"] == str(10 << 20) and found["Memory"]["used_memory_human"] == "10.00M"
    assert found["Memory"]["used_memory_peak_perc"] == "40.00%"
    assert found["Memory"]["mem_fragmentation_ratio"] == "2.00"
    assert found["Memory"]["maxmemory_policy"] == "noeviction"
    assert found["Stats"]["keyspace_hits"] == "1" and int(found["Stats"]["keyspace_misses"]) >= 1
    assert found["Stats"]["total_error_replies"] == "2" and found["Stats"]["pubsub_channels"] == "1"
    assert found["CPU"]["used_cpu_user"] == "2.250000" and found["CPU"]["used_cpu_sys_children"] == "0.000000"
    assert found["Errorstats"] == {"errorstat_ERR": "count=2"}
    stats = sections(one, "commandstats")["Commandstats"]
    assert stats["cmdstat_get"] == "calls=2,usec=0,usec_per_call=0.00,rejected_calls=1,failed_calls=0"
    assert "cmdstat_nosuch" not in stats


def test_snapshots_and_refusals_in_persistence() -> None:
    fake = FakeServer()
    client = fake.client()
    state = fake.snapshots
    found = sections(client, "persistence")["Persistence"]
    assert found["rdb_last_bgsave_time_sec"] == found["rdb_current_bgsave_time_sec"] == "-1"
    assert found["aof_enabled"] == "1" and found["loading"] == "0" and found["respkv_writes_refused"] == "0"
    state.made, state.last_ok, state.last_took_ms, state.busy, state.unsaved = 2, False, 4200, True, 9
    fake.metrics.refuse_writes("disk used > max-disk")
    found = sections(client, "persistence")["Persistence"]
    assert found["rdb_saves"] == "2" and found["rdb_last_bgsave_status"] == "err"
    assert found["rdb_last_bgsave_time_sec"] == "4" and found["rdb_bgsave_in_progress"] == "1"
    assert found["rdb_changes_since_last_save"] == "9" and found["respkv_writes_refused"] == "1"


def test_latencystats_follow_the_configured_percentiles() -> None:
    fake = FakeServer()
    client = fake.client()
    for took_us in (10, 10, 10, 50):
        fake.metrics.count_call("get", took_us)
    found = sections(client, "latencystats")["Latencystats"]
    assert found["latency_percentiles_usec_get"] == "p50=10.000,p99=50.000,p99.9=50.000"
    client("CONFIG", "SET", "latency-tracking-info-percentiles", "25")
    assert sections(client, "latencystats")["Latencystats"]["latency_percentiles_usec_get"] == "p25=10.000"


def test_own_section_shows_the_engine() -> None:
    fake = FakeServer()
    fake.metrics.wal_sync.record(500)
    found = sections(fake.client(), "respkv")["Respkv"]
    assert found["respkv_fsync_count"] == "1" and found["respkv_fsync_max_usec"] == "500"
    assert found["respkv_writes_refused_reason"] == "none"
    assert {"respkv_runs", "respkv_write_amplification", "respkv_unsynced_bytes"} <= found.keys()


def test_names_that_libraries_misread_are_absent() -> None:
    text = FakeServer().client()("INFO", "everything")
    for name in (b"valkey_version:", b"dragonfly_version:", b"server_name:"):
        assert name not in text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1.00K"), (1536 << 10, "1.50M"), (3 << 30, "3.00G"), (5 << 40, "5.00T"),
     (2 << 50, "2.00P")],
)  # fmt: skip
def test_human(size: int, text: str) -> None:
    assert human(size) == text


# -- on a ring ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster_face", [False, True])
def test_the_face_of_a_connection_is_told(cluster_face: bool) -> None:
    ring = FakeRing()
    ring.mesh.given = [Link(2, True, 0, False, 0, 0)]
    found = sections(connect(join(FakeServer(), ring), cluster_face=cluster_face))
    assert list(found) == DEFAULT
    assert found["Server"]["redis_mode"] == ("cluster" if cluster_face else "standalone")
    assert found["Cluster"]["cluster_enabled"] == str(int(cluster_face))
    assert found["Clients"]["cluster_connections"] == "1"
    for name, fields in FIELDS.items():
        got, wanted = list(found[name]), fields.split()
        assert got[: len(wanted)] == wanted, name
        assert all(field.startswith("respkv_") for field in got[len(wanted) :]), name


def test_how_the_ring_stands() -> None:
    ring = FakeRing()
    assert ring.membership is not None
    ring.membership.apply((2, 2, 1, 3))
    ring.rebuild()
    ring.repair.hints = {2: 4, 3: 1}
    found = sections(connect(join(FakeServer(), ring)), "everything")
    cluster = found["Cluster"]
    assert cluster["respkv_ring_status"] == "member of a ring of 3" and cluster["respkv_ring_myself"] == "1"
    assert cluster["respkv_ring_epoch"] == "1" and cluster["respkv_ring_slots_ok"] == "16384"
    assert cluster["respkv_ring_members_alive"] == "2" and cluster["respkv_ring_members_dead"] == "1"
    replication = found["Replication"]
    assert replication["role"] == "master" and replication["connected_slaves"] == "0"
    assert replication["respkv_replication_factor"] == "3"
    assert replication["respkv_peers"] == "2" and replication["respkv_peers_live"] == "1"
    assert replication["respkv_hints_pending"] == "5"
    respkv = found["Respkv"]
    assert respkv["respkv_ring_hint_entries"] == "5" and respkv["respkv_ring_mesh_links"] == "0"
    assert respkv["respkv_ring_epoch"] == "1"


def test_a_ring_that_is_not_formed() -> None:
    found = sections(connect(join(FakeServer(), FakeRing(0))), "cluster", "replication")
    assert found["Cluster"] == {
        "cluster_enabled": "1",
        "respkv_ring_status": "waiting for 2 of 3 nodes",
        "respkv_ring_myself": "0",
    }
    assert "respkv_peers" not in found["Replication"]


def test_a_ring_that_is_not_formed_is_loading() -> None:
    found = sections(connect(join(FakeServer(), FakeRing(0))), "persistence")["Persistence"]
    assert found["loading"] == "1" and found["loading_eta_seconds"] == "1"
    found = sections(connect(join(FakeServer(), FakeRing())), "persistence")["Persistence"]
    assert found["loading"] == "0" and "loading_eta_seconds" not in found


def test_a_single_node_has_no_ring_section() -> None:
    assert sections(FakeServer().client(), "ring") == {} and "Ring" not in sections(FakeServer().client(), "everything")


def test_the_ring_and_its_peers() -> None:
    ring = FakeRing()
    ring.repair.hints = {2: 4}
    client = connect(join(FakeServer(), ring))
    found = sections(client, "ring")["Ring"]
    assert found["respkv_ring_status"] == "member of a ring of 3" and found["respkv_ring_hints_pending"] == "4"
    assert found["respkv_peer2"] == "state=alive,rtt_us=2,lag_ms=20" and "respkv_peer1" not in found
    replication = sections(client, "replication")["Replication"]
    assert replication["respkv_replication_lag_ms"] == "30" and replication["respkv_peer3"].endswith("lag_ms=30")
