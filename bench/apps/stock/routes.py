"""The routes that are measured, the same for both Bolts: only their imports differ.

No return annotation: django-bolt would check each answer against it, which ours does not do.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from stock.models import Item
from stock.orders import Order


def add_routes(
    api: Any,
    authenticated: dict[str, Any],
    limited: Callable[[Any], Any],
    refused: Callable[[Any], Any],
    inline: dict[str, Any],
) -> None:
    """Put the routes on a BoltAPI of either make."""

    @api.get("/items/{item_id}")
    async def item(item_id: int):
        return {"item_id": item_id}

    @api.get("/search/{shelf}")
    async def search(shelf: str, limit: int = 10, exact: bool = False, q: str = ""):
        return {"shelf": shelf, "limit": limit, "exact": exact, "q": q}

    @api.post("/orders")
    async def order(order: Order):
        return order

    @api.get("/secret/{item_id}", **authenticated)
    async def secret(item_id: int):
        return {"item_id": item_id}

    @api.get("/limited/{item_id}")
    @limited
    async def in_limits(item_id: int):
        return {"item_id": item_id}

    @api.get("/refused/{item_id}")
    @refused
    async def beyond_limits(item_id: int):
        return {"item_id": item_id}

    @api.get("/suspending/{item_id}")
    async def suspending(item_id: int):
        await asyncio.sleep(0)
        return {"item_id": item_id}

    @api.get("/plain/{item_id}")
    def plain(item_id: int):
        return {"item_id": item_id}

    @api.get("/inline/{item_id}", **inline)
    def on_the_loop(item_id: int):
        return {"item_id": item_id}

    @api.get("/rows")
    async def rows():
        return [{"id": row.pk, "name": row.name} async for row in Item.objects.all()[:10]]

    @api.get("/plain-rows")
    def plain_rows():
        return [{"id": row.pk, "name": row.name} for row in Item.objects.all()[:10]]
