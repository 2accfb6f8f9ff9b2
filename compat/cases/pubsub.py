"""Publish and subscribe, seen from one connection."""

from __future__ import annotations

from compat.cases import Case, case

CASES: list[Case] = [
    case(
        "publish without subscribers",
        "PUBLISH c m",
        "PUBLISH '' ''",
        "SPUBLISH c m",
        "PUBLISH c",
        "PUBLISH c m x",
        "SPUBLISH c",
    ),
    case(
        "introspection without subscribers",
        "PUBSUB CHANNELS",
        "PUBSUB CHANNELS a*",
        "PUBSUB CHANNELS a b",
        "PUBSUB NUMSUB",
        "PUBSUB NUMSUB a b",
        "PUBSUB NUMPAT",
        "PUBSUB NUMPAT x",
        "PUBSUB SHARDCHANNELS",
        "PUBSUB SHARDNUMSUB",
        "PUBSUB SHARDNUMSUB a",
        "PUBSUB",
        "PUBSUB FOO",
        "PUBSUB HELP",
    ),
    case("subscribe one by one", "SUBSCRIBE a", "SUBSCRIBE b", "SUBSCRIBE a", "PSUBSCRIBE p*", "SSUBSCRIBE s"),
    case(
        "unsubscribe",
        "SUBSCRIBE a",
        "PSUBSCRIBE p*",
        "UNSUBSCRIBE nope",
        "UNSUBSCRIBE a",
        "PUNSUBSCRIBE nope",
        "PUNSUBSCRIBE",
        "GET k",
    ),
    case("unsubscribe from nothing", "UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE", "UNSUBSCRIBE a", "SUNSUBSCRIBE a"),
    case("several names", "SUBSCRIBE a b a", "UNSUBSCRIBE a x", "PSUBSCRIBE a* b*", "PUNSUBSCRIBE a* x"),
    case("missing names", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"),
    case("ping of a subscriber", "SUBSCRIBE a", "PING", "PING x", "PING x y", "UNSUBSCRIBE a", "PING", "PING x"),
    case("reset ends subscriptions", "SUBSCRIBE a", "PSUBSCRIBE p*", "RESET", "PUBLISH a x", "PUBLISH pp x", "GET k"),
    case("one channel inside a transaction", "MULTI", "PUBLISH a x", "PUBSUB NUMSUB a", "EXEC"),
]
