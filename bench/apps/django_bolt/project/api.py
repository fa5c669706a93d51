"""The routes that are measured; the same ones in ../../ours.

No return annotation: django-bolt would check each answer against it, which ours does not do.
"""

import asyncio

from django_bolt import BoltAPI
from django_bolt.middleware import rate_limit

# Ours neither logs each request nor compresses, so this one must not either.
api = BoltAPI(enable_logging=False, compression=False)


@api.get("/items/{item_id}")
async def item(item_id: int):
    return {"item_id": item_id}


@api.get("/limited/{item_id}")
@rate_limit(rps=1_000_000_000, key="ip")
async def limited(item_id: int):
    return {"item_id": item_id}


@api.get("/refused/{item_id}")
@rate_limit(rps=1, burst=1, key="ip")
async def refused(item_id: int):
    return {"item_id": item_id}


@api.get("/suspending/{item_id}")
async def suspending(item_id: int):
    await asyncio.sleep(0)
    return {"item_id": item_id}
