"""redis-py's asyncio side: pools, pipelines, WATCH, subscriptions, cancelled calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio as redis
from redis.exceptions import ResponseError, WatchError

from tests.integration.conftest import ServerProcess

Client = Any
Body = Callable[[Client], Awaitable[None]]
Run = Callable[[Body], None]


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def run(request: pytest.FixtureRequest, respkv_server: ServerProcess) -> Run:
    """``run(body)`` runs a coroutine function with a client on an empty server."""

    def start(body: Body) -> None:
        async def main() -> None:
            async with redis.Redis(
                host=respkv_server.host, port=respkv_server.port, protocol=request.param, decode_responses=True
            ) as client:
                await client.flushall()
                await asyncio.wait_for(body(client), 60)

        asyncio.run(main())

    return start


def test_many_tasks_on_one_pool(run: Run) -> None:
    async def body(client: Client) -> None:
        async def one(number: int) -> str:
            await client.set(f"k{number}", number)
            await client.incr("n")
            value: str = await client.get(f"k{number}")
            return value

        assert await asyncio.gather(*(one(number) for number in range(50))) == [str(number) for number in range(50)]
        assert await client.get("n") == "50"

    run(body)


def test_a_pipeline_of_ten_thousand(run: Run) -> None:
    async def body(client: Client) -> None:
        async with client.pipeline(transaction=False) as pipe:
            for number in range(10_000):
                pipe.incr(f"n{number % 3}")
            replies = await pipe.execute()
        assert replies == [number // 3 + 1 for number in range(10_000)]
        async with client.pipeline(transaction=True) as pipe:
            replies = await pipe.hset("h", "f", 1).hgetall("h").incr("h").execute(raise_on_error=False)
        assert replies[:2] == [1, {"f": "1"}] and isinstance(replies[2], ResponseError)

    run(body)


def test_watch(run: Run) -> None:
    async def body(client: Client) -> None:
        await client.set("n", 1)
        async with client.pipeline() as pipe:
            await pipe.watch("n")
            await client.incr("n")
            pipe.multi()
            pipe.set("n", 50)
            with pytest.raises(WatchError):
                await pipe.execute()
        assert await client.get("n") == "2"

        async def double(pipe: Client) -> None:
            value = int(await pipe.get("n"))
            pipe.multi()
            pipe.set("n", value * 2)

        assert await client.transaction(double, "n") == [True] and await client.get("n") == "4"

    run(body)


def test_publish_and_subscribe(run: Run) -> None:
    async def body(client: Client) -> None:
        async with client.pubsub() as pubsub:
            await pubsub.subscribe("a")
            await pubsub.psubscribe("b*")
            confirmed = [await pubsub.get_message(timeout=10) for _ in range(2)]
            assert [item["type"] for item in confirmed] == ["subscribe", "psubscribe"]
            for number in range(100):
                await client.publish("a" if number % 2 else "bb", number)
            messages = [await pubsub.get_message(timeout=10) for _ in range(100)]
            assert [item["data"] for item in messages] == [str(number) for number in range(100)]
            await pubsub.unsubscribe("a")
            assert (await pubsub.get_message(timeout=10))["type"] == "unsubscribe"

    run(body)


def test_iterators(run: Run) -> None:
    async def body(client: Client) -> None:
        await client.mset({f"k{number}": number for number in range(500)})
        await client.hset("h", mapping={f"f{number}": number for number in range(500)})
        assert len({key async for key in client.scan_iter("k*", count=50)}) == 500
        assert len({field async for field, _ in client.hscan_iter("h", count=50)}) == 500

    run(body)


def test_a_cancelled_call_does_not_mix_up_replies(run: Run) -> None:
    async def body(client: Client) -> None:
        await client.mset({f"k{number}": number for number in range(20)})
        for number in range(20):
            call = asyncio.ensure_future(client.mget([f"k{number}"] * 500))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            assert await client.get(f"k{number}") == str(number)

    run(body)


def test_a_large_value(run: Run) -> None:
    async def body(client: Client) -> None:
        value = "0123456789abcdef" * (1 << 16)
        assert await client.set("big", value) is True and await client.get("big") == value

    run(body)
