"""A server process whose handlers check themselves: run it with a loop's name, it prints its port.

Each check is one way in which handlers use asyncio, anyio or asgiref. It answers `"ok"` or fails
with an assertion, which the error hook puts into the response.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import sys
import traceback
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import django
import msgspec
import uvloop
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings as django_settings

from tollway._tollway import Request, Server

CHECKS: dict[str, Callable[..., Any]] = {}
MODES: dict[str, str] = {}
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


def check(function: Callable[..., Any], mode: str = "async") -> Callable[..., Any]:
    """Registers a check under its name."""
    CHECKS[function.__name__] = function
    MODES[function.__name__] = mode
    return function


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Registers a check that runs as a plain function on the loop's thread."""
    return check(function, "inline")


def this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


@check
async def running_loop() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    assert asyncio.get_running_loop() is loop


@check
async def current_task_identity() -> None:
    before = this_task()
    await asyncio.sleep(0)
    middle = this_task()
    await asyncio.sleep(0.01)
    assert before is middle is this_task()
    assert before in asyncio.all_tasks()


@check
async def sleep() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    await asyncio.sleep(0.02)
    assert loop.time() - start >= 0.015


@check
async def timeout() -> None:
    try:
        async with asyncio.timeout(0.02):
            await asyncio.sleep(30)
    except TimeoutError:
        assert this_task().cancelling() == 0
    else:
        raise AssertionError("no timeout")
    async with asyncio.timeout(5):
        await asyncio.sleep(0)


@check
async def wait_for() -> None:
    assert await asyncio.wait_for(asyncio.sleep(0, "value"), 5) == "value"
    try:
        await asyncio.wait_for(asyncio.Event().wait(), 0.02)
    except TimeoutError:
        return
    raise AssertionError("no timeout")


@check
async def task_group() -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0.001 * n, n)) for n in range(3)]
    assert [task.result() for task in tasks] == [0, 1, 2]


@check
async def failing_task_group() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("inner")

    caught = None
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            await asyncio.sleep(30)
    except* ValueError as error:
        caught = error
    assert caught is not None
    # The group cancelled this task to get here and must have taken that back.
    assert this_task().cancelling() == 0
    await asyncio.sleep(0)


@check
async def gather() -> None:
    results = await asyncio.gather(
        asyncio.sleep(0.01, 1), asyncio.sleep(0, 2), asyncio.sleep(0.005, 3)
    )
    assert results == [1, 2, 3]


@check
async def to_thread_carries_context() -> None:
    variable.set("seen")
    assert await asyncio.to_thread(variable.get) == "seen"


@check
async def sync_to_async_carries_context_back() -> None:
    def inside() -> str:
        seen = variable.get()
        variable.set("back")
        return seen

    variable.set("there")
    assert await sync_to_async(inside)() == "there"
    assert variable.get() == "back"


def count_rows() -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 UNION SELECT 2")
        return len(cursor.fetchall())


@check
async def orm_through_sync_to_async() -> None:
    assert await sync_to_async(count_rows)() == 2


@inline
def orm_inline() -> None:
    assert count_rows() == 2


@inline
def async_to_sync_inline() -> None:
    async def inside() -> str:
        await asyncio.sleep(0.001)
        return "value"

    assert async_to_sync(inside)() == "value"


@check
async def context_is_not_inherited() -> None:
    assert variable.get() == "none"
    variable.set("mine")
    await asyncio.sleep(0)
    assert variable.get() == "mine"


@check
async def context_is_not_shared_with_children() -> None:
    async def child() -> None:
        assert variable.get() == "parent"
        variable.set("child")

    variable.set("parent")
    await asyncio.create_task(child())
    assert variable.get() == "parent"


@check
async def create_task() -> None:
    task = asyncio.create_task(asyncio.sleep(0.01, "value"))
    await asyncio.sleep(0)
    assert {task, this_task()} <= asyncio.all_tasks()
    assert await task == "value"


@check
async def lock() -> None:
    order: list[int] = []
    guard = asyncio.Lock()

    async def worker(number: int) -> None:
        async with guard:
            order.append(number)
            await asyncio.sleep(0)

    async with guard:
        tasks = [asyncio.create_task(worker(n)) for n in range(3)]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    async with guard:
        assert order == [0, 1, 2]


@check
async def streams() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"line\n")
        await writer.drain()
        assert await reader.readline() == b"line\n"
        writer.close()
        await writer.wait_closed()


@check
async def subprocess() -> None:
    process = await asyncio.create_subprocess_exec("echo", "word", stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert (output, process.returncode) == (b"word\n", 0)


@check
async def anyio_task_group() -> None:
    done: list[int] = []

    async def child(number: int) -> None:
        await anyio.sleep(0.001 * number)
        done.append(number)

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(child, number)
    assert done == [0, 1, 2]


@check
async def anyio_cancel_scope() -> None:
    with anyio.move_on_after(0.02) as scope:
        await anyio.sleep(30)
    assert scope.cancelled_caught
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 30)
        group.cancel_scope.cancel()
    # Nothing of the cancellation is left.
    await anyio.sleep(0.001)
    assert this_task().cancelling() == 0


@check
async def anyio_to_thread() -> None:
    variable.set("seen")
    assert await anyio.to_thread.run_sync(variable.get) == "seen"


@check
async def call_later_without_suspending() -> None:
    asyncio.get_running_loop().call_later(0.01, later, "late")
    asyncio.get_running_loop().call_soon(later, "soon")


@check
async def call_later_was_called() -> None:
    for _ in range(100):
        if {"late", "soon"} <= set(called):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(called)


called: list[str] = []


def later(word: str) -> None:
    called.append(word)


@check
async def weak_reference_to_the_task() -> None:
    reference = weakref.ref(this_task())
    marks: weakref.WeakKeyDictionary[asyncio.Task[Any], str] = weakref.WeakKeyDictionary()
    marks[this_task()] = "mark"
    await asyncio.sleep(0)
    assert reference() is this_task()
    assert marks[this_task()] == "mark"


@check
async def exception_of_a_future() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_exception, KeyError("inner"))
    try:
        await future
    except KeyError as error:
        assert error.args == ("inner",)
        return
    raise AssertionError("no exception")


@check
async def self_cancel() -> None:
    this_task().cancel("why")
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError as error:
        assert error.args == ("why",)
        assert this_task().cancelling() == 1
        assert this_task().uncancel() == 0
        await asyncio.sleep(0)
        return
    raise AssertionError("not cancelled")


@check
async def task_is_a_future_in_all_but_class() -> None:
    """The accepted exception: not an instance of `asyncio.Task`, but everything else of one."""
    task = this_task()
    assert not isinstance(task, asyncio.Task)
    assert asyncio.isfuture(task)
    assert asyncio.ensure_future(task) is task
    assert task.get_loop() is asyncio.get_running_loop()
    assert inspect.getcoroutinestate(task.get_coro()) == "CORO_RUNNING"
    task.set_name("mine")
    assert task.get_name() == "mine"
    assert not task.done() and not task.cancelled()
    public = {name for name in dir(asyncio.Task) if not name.startswith("_")} - {"print_stack"}
    missing = {name for name in public if not hasattr(task, name)}
    assert not missing, missing


@check
async def task_can_be_awaited_by_others() -> None:
    task, seen = this_task(), []

    async def watch() -> None:
        seen.append(await asyncio.shield(task))

    done: asyncio.Event = asyncio.Event()
    task.add_done_callback(lambda ended: (seen.append(ended.result()), done.set()))
    followers.append(asyncio.ensure_future(watch()))
    follower_results.append((seen, done))
    await asyncio.sleep(0)


followers: list[asyncio.Future[None]] = []
follower_results: list[tuple[list[Any], asyncio.Event]] = []


@check
async def task_was_awaited() -> None:
    await followers[0]
    seen, done = follower_results[0]
    await done.wait()
    assert seen == ["ok", "ok"]


@check
async def bad_yields_are_told_to_the_handler() -> None:
    class Odd:
        def __await__(self) -> Any:
            yield 7

    try:
        await Odd()
    except RuntimeError as error:
        assert "not a future" in str(error)
    else:
        raise AssertionError("accepted")
    other = asyncio.new_event_loop()
    try:
        await asyncio.Future(loop=other)
    except RuntimeError as error:
        assert "different loop" in str(error)
    else:
        raise AssertionError("accepted")
    finally:
        other.close()
    await asyncio.sleep(0)


@check
async def cancelling_a_waiting_parent_cancels_the_child() -> None:
    cancelled = asyncio.Event()

    async def child() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            cancelled.set()

    asyncio.get_running_loop().call_later(0.01, this_task().cancel)
    try:
        await child()
    except asyncio.CancelledError:
        this_task().uncancel()
    assert cancelled.is_set()


def route(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    async def run() -> str:
        await function()
        return "ok"

    def run_plain() -> str:
        function()
        return "ok"

    mode = MODES[name]
    return {
        "method": "GET",
        "path": f"/{name}",
        "name": name,
        "handler": run if mode == "async" else run_plain,
        "mode": mode,
        "args": [],
        "status": 200,
        "encode": msgspec.json.encode,
        "limits": [],
    }


def on_error(_request: Request, error: BaseException) -> tuple[int, list[tuple[str, str]], bytes]:
    text = "".join(traceback.format_exception(error))
    return 500, [("content-type", "text/plain; charset=utf-8")], text.encode()


async def serve() -> None:
    server = Server([route(*item) for item in CHECKS.items()], {"on_error": on_error})
    _, port = server.bind("127.0.0.1", 0)
    server.start(asyncio.get_running_loop())
    print(port, flush=True)
    stop: Awaitable[bytes] = asyncio.to_thread(sys.stdin.buffer.read)
    await stop
    await server.shutdown(1)
    print("closed", flush=True)


if __name__ == "__main__":
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    django_settings.configure(DATABASES={"default": database}, INSTALLED_APPS=[])
    django.setup()
    (uvloop.run if sys.argv[1] == "uvloop" else asyncio.run)(serve())
