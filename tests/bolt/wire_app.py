"""The API that hostile clients and clients over TLS are answered from; copied into a project."""

import asyncio
from pathlib import Path
from typing import Any

from tollway.bolt import BoltAPI, PlainText, Request

api = BoltAPI()
MARKS = Path(__file__).parent


@api.get("/ping")
async def ping() -> dict[str, Any]:
    return {"ok": True}


@api.get("/seen")
async def seen(request: Request) -> dict[str, Any]:
    return {"scheme": request.scheme, "host": request.headers["host"], "path": request.path}


@api.get("/items/{name}")
async def item(name: str, request: Request, q: str = "") -> dict[str, Any]:
    return {"name": name, "q": q, "seen": request.headers.get("x-seen")}


@api.post("/echo")
async def echo(request: Request) -> PlainText:
    return PlainText(request.body)


@api.get("/big")
async def big(size: int = 8_000_000) -> PlainText:
    return PlainText(b"x" * size)


@api.get("/slow/{number}")
async def slow(number: int, seconds: float = 0.05) -> int:
    (MARKS / "slow").touch()
    await asyncio.sleep(seconds)
    return number


@api.get("/never")
async def never() -> None:
    (MARKS / "began").touch()
    try:
        await asyncio.Event().wait()
    finally:
        (MARKS / "ended").touch()
