"""The thread that async handlers share for Django's ORM."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from tollway.bolt.server.loop_thread import LoopThread, thread_of

NAME = "tollway-loop"


async def test_calls_run_in_order_on_one_thread_and_give_back_what_happened() -> None:
    order: list[int] = []
    place: ContextVar[str] = ContextVar("place", default="nowhere")

    def call(number: int) -> str:
        order.append(number)
        place.set(f"thread {number}")
        if number == 2:
            raise LookupError("two")
        return threading.current_thread().name

    def stop() -> None:
        raise StopIteration

    with thread_of(asyncio.get_running_loop()):
        calls = [sync_to_async(call)(number) for number in range(5)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [str(one) for one in found] == [NAME, NAME, "two", NAME, NAME]
        assert isinstance(found[2], LookupError)
        assert order == [0, 1, 2, 3, 4]
        await sync_to_async(call)(7)
        assert place.get() == "thread 7"
        with pytest.raises(RuntimeError, match="StopIteration"):
            await sync_to_async(stop)()
    elsewhere = await sync_to_async(threading.current_thread)()
    assert elsewhere.name != NAME, "the thread goes with what it was for"


async def test_a_function_there_may_come_back_to_the_loop_and_go_there_again() -> None:
    def name() -> str:
        return threading.current_thread().name

    async def on_loop() -> list[str]:
        return [name(), await sync_to_async(name)()]

    def there() -> list[str]:
        return [name(), *async_to_sync(on_loop)()]

    with thread_of(asyncio.get_running_loop()):
        assert await sync_to_async(there)() == [NAME, name(), NAME]


async def test_a_call_that_was_given_up_does_not_begin() -> None:
    let_go = threading.Event()
    called: list[str] = []
    thread = LoopThread(asyncio.get_running_loop())
    first = thread.submit(let_go.wait, 20)
    second = thread.submit(called.append, "second")
    third = thread.submit(called.append, "third")
    first.cancel()
    second.cancel()
    let_go.set()
    await third
    assert called == ["third"]
    thread.shutdown()


async def test_an_end_is_told_while_a_slow_call_runs() -> None:
    let_go = threading.Event()
    thread = LoopThread(asyncio.get_running_loop())
    quick, slow, last = (thread.submit(call) for call in (str, let_go.wait, str))
    await quick
    assert not slow.done()
    let_go.set()
    await last
    assert slow.done()
    thread.shutdown(wait=True)


async def test_what_was_submitted_before_the_end_is_told() -> None:
    let_go = threading.Event()
    thread = LoopThread(asyncio.get_running_loop())
    slow = thread.submit(let_go.wait, 20)
    thread.shutdown(wait=False)
    let_go.set()
    assert await asyncio.wait_for(slow, 20) is True


async def test_a_thread_that_found_no_room_is_started_by_the_next_call() -> None:
    thread = LoopThread(asyncio.get_running_loop())
    usual = threading.stack_size(1 << 46)  # more than there is
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            thread.submit(str)
    finally:
        threading.stack_size(usual)
    assert await asyncio.wait_for(thread.submit(str), 20) == ""
    thread.shutdown()
