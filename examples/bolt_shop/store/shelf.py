"""What is left of every product, told to all who watch."""

import asyncio
import logging
from collections.abc import AsyncIterator

from django.db import DatabaseError

from store.models import Product
from store.schemas import Left

EVERY = 0.25
"""Seconds between two looks at the database."""

log = logging.getLogger(__name__)


class Shelf:
    """One query for all clients of a process, however many of them watch."""

    def __init__(self) -> None:
        self._stock: dict[int, int] = {}
        self._changed = asyncio.Condition()

    async def look(self) -> None:
        """Keep looking, until cancelled."""
        while True:
            try:
                found = Product.objects.values_list("pk", "stock")
                stock = {product: left async for product, left in found}
            except DatabaseError:
                log.exception("the shelf cannot be seen")
            else:
                async with self._changed:
                    self._stock = stock
                    self._changed.notify_all()
            await asyncio.sleep(EVERY)

    async def changes(self) -> AsyncIterator[Left]:
        """What is left of each product, then every change of it."""
        told: dict[int, int] = {}
        while True:
            async with self._changed:
                while self._stock == told:
                    await self._changed.wait()
                stock = self._stock
            for product, left in sorted(stock.items() - told.items()):
                yield Left(product, left)
            told = stock
