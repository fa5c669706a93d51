"""Some of the routes on Litestar, for granian to serve."""

import asyncio
from typing import Any

from litestar import Litestar, get, post
from stock.orders import Order


@get("/items/{item_id:int}")
async def item(item_id: int) -> dict[str, int]:
    return {"item_id": item_id}


@get("/search/{shelf:str}")
async def search(shelf: str, limit: int = 10, exact: bool = False, q: str = "") -> dict[str, Any]:
    return {"shelf": shelf, "limit": limit, "exact": exact, "q": q}


@post("/orders", status_code=200)
async def order(data: Order) -> Order:
    return data


@get("/suspending/{item_id:int}")
async def suspending(item_id: int) -> dict[str, int]:
    await asyncio.sleep(0)
    return {"item_id": item_id}


app = Litestar([item, search, order, suspending], openapi_config=None)
