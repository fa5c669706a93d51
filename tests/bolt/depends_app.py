"""The API that tests of dependencies are served from; copied into a project."""

import asyncio
import contextvars
import threading
from typing import Annotated, Any

import msgspec
from django.utils.functional import lazy

from tollway.bolt import BoltAPI, Conflict, Depends, Forbidden, Router, ServiceUnavailable
from tollway.bolt.params import Header

api = BoltAPI()
events: list[str] = []
entered = asyncio.Event()
closed = asyncio.Event()
variable = contextvars.ContextVar("variable", default="unset")


class Page:
    def __init__(self, page: int = 1, size: int = 20) -> None:
        self.page = page
        self.size = size


def find_shop(shop: str) -> str:
    return shop


Shop = Annotated[str, Depends(find_shop)]


def tag(shop: Shop) -> str:
    return f"[{shop}]"


def shown(shop: str, page: Page, tag: str) -> dict[str, Any]:
    return {"shop": shop, "page": page.page, "size": page.size, "tag": tag}


@api.get("/async/{shop}")
async def in_async(shop: Shop, page: Annotated[Page, Depends()], tag: str = Depends(tag)):
    return shown(shop, page, tag)


@api.get("/sync/{shop}")
def in_sync(shop: Shop, page: Annotated[Page, Depends()], tag: str = Depends(tag)):
    return shown(shop, page, tag)


@api.get("/inline/{shop}", inline=True)
def in_inline(shop: Shop, page: Annotated[Page, Depends()], tag: str = Depends(tag)):
    return shown(shop, page, tag)


@api.get("/events")
async def take_events():
    found = list(events)
    events.clear()
    return found


class Counter:
    def __init__(self) -> None:
        self.count = 0


def count(counter: Annotated[Counter, Depends()]) -> int:
    counter.count += 1
    return counter.count


def nested(value: Annotated[int, Depends(count)]) -> int:
    return value


@api.get("/cached")
async def cached(
    first: int = Depends(count),
    second: int = Depends(count),
    nested: int = Depends(nested),
    again: int = Depends(count, use_cache=False),
):
    return {"first": first, "second": second, "nested": nested, "again": again}


async def on_loop() -> bool:
    return asyncio.get_running_loop().is_running()


def thread() -> str:
    variable.set("set by the dependency")
    return threading.current_thread().name


def inline_thread() -> str:
    return threading.current_thread().name


class Made:
    def __init__(self) -> None:
        self.thread = threading.current_thread().name


def rows() -> list[str]:
    from shop.models import Item

    return [item.name for item in Item.objects.all()]


@api.get("/mixed/sync")
def mixed_sync(on_loop: bool = Depends(on_loop)):
    return {"on_loop": on_loop, "handler_thread": threading.current_thread().name}


@api.get("/mixed/async")
async def mixed_async(
    *,
    plain: str = Depends(thread),
    quick: str = Depends(inline_thread, inline=True),
    made: Made = Depends(),
    rows: list[str] = Depends(rows),
):
    return {
        "plain_thread": plain,
        "inline_thread": quick,
        "class_thread": made.thread,
        "rows": rows,
        "variable": variable.get(),
    }


class Named(msgspec.Struct):
    name: str


def counted(x_count: Annotated[int, Header()]) -> int:
    return x_count


@api.post("/listed")
async def listed(item: Named, page: Annotated[Page, Depends()], count: int = Depends(counted)):
    return {}


def named(item: Named) -> Named:
    return item


@api.post("/shared")
async def shared(item: Named, other: Named = Depends(named)):
    return {"same": item is other}


def outer():
    events.append("outer opens")
    try:
        yield "outer"
    finally:
        events.append("outer closes")


async def outer_async():
    events.append("outer opens")
    try:
        yield "outer"
    finally:
        events.append("outer closes")


def inner(outer: str = Depends(outer)):
    events.append("inner opens")
    try:
        yield f"inner of {outer}"
    except Exception as error:
        events.append(f"inner sees {type(error).__name__}")
        raise
    finally:
        events.append("inner closes")


async def inner_async(outer: str = Depends(outer_async)):
    events.append("inner opens")
    try:
        yield f"inner of {outer}"
    except Exception as error:
        events.append(f"inner sees {type(error).__name__}")
        raise
    finally:
        await asyncio.sleep(0)
        events.append("inner closes")


def told(value: str, fails: bool) -> Any:
    """An answer that writes down when it is encoded."""
    events.append("handler")
    if fails:
        raise Conflict("the handler")
    return {"value": lazy(lambda: events.append("encoded") or value, str)()}


@api.get("/cleaned/sync")
def cleaned_sync(value: str = Depends(inner), fails: bool = False):
    return told(value, fails)


@api.get("/cleaned/async")
async def cleaned_async(value: str = Depends(inner_async), fails: bool = False):
    return told(value, fails)


@api.get("/cleaned/crossed")
async def cleaned_crossed(value: str = Depends(inner), fails: bool = False):
    return told(value, fails)


def translated():
    try:
        yield
    except KeyError:
        raise ServiceUnavailable("it was a KeyError") from None


async def translated_async():
    try:
        yield
    except KeyError:
        raise ServiceUnavailable("it was a KeyError") from None


@api.get("/replaced/sync", dependencies=[Depends(translated)])
def replaced_sync():
    raise KeyError


@api.get("/replaced/async", dependencies=[Depends(translated_async)])
async def replaced_async():
    raise KeyError


@api.get("/replaced/crossed", dependencies=[Depends(translated)])
async def replaced_crossed():
    raise KeyError


async def opened_async():
    try:
        yield
    except BaseException as error:
        events.append(type(error).__name__)
        raise
    finally:
        await asyncio.sleep(0)
        events.append("closed")
        closed.set()


async def running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def opened(loop: Any = Depends(running_loop)):
    try:
        yield
    except BaseException as error:
        events.append(type(error).__name__)
        raise
    finally:
        events.append("closed")
        loop.call_soon_threadsafe(closed.set)


async def wait() -> None:
    entered.set()
    await asyncio.Event().wait()


@api.get("/waits/async")
async def waits_async(nothing: None = Depends(opened_async)):
    await wait()


@api.get("/waits/crossed")
async def waits_crossed(nothing: None = Depends(opened)):
    await wait()


@api.get("/entered")
async def when_entered():
    await entered.wait()
    entered.clear()
    return ["entered"]


@api.get("/closed")
async def when_closed():
    await closed.wait()
    closed.clear()
    return await take_events()


def of_the_api() -> None:
    events.append("of the api")


def of_the_router() -> None:
    events.append("of the router")


def of_the_route(shop: Shop, x_stop: Annotated[str | None, Header()] = None) -> None:
    events.append("of the route")
    if x_stop == "route":
        raise Forbidden("stopped")


team = BoltAPI(dependencies=[Depends(of_the_api)])
boards = Router(prefix="/{shop}", dependencies=[Depends(of_the_router)])


@boards.get("/notes", dependencies=[Depends(of_the_route)])
async def notes(shop: Shop):
    return {"shop": shop}


team.include_router(boards)
api.mount("/team", team)
