"""The Bolt door: found by `manage.py runbolt`, limited before Python is entered."""

import msgspec

from shop.models import Item
from tollway.bolt import BoltAPI, rate_limit

api = BoltAPI()


class ItemOut(msgspec.Struct):
    """An item as a client sees it."""

    id: int
    name: str
    price_cents: int


@api.get("/ping")
@rate_limit(key="ip", rate="5/10s")
async def ping() -> dict[str, str]:
    """Five times in ten seconds for each client."""
    return {"door": "bolt"}


@api.get("/items")
async def items() -> dict[str, list[ItemOut]]:
    """Everything for sale, from the database."""
    found = [ItemOut(item.id, item.name, item.price_cents) async for item in Item.objects.all()]
    return {"items": found}
