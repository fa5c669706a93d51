"""The routes that are measured; the same ones in ../../django_bolt.

No return annotation: django-bolt would check each answer against it, which ours does not do.
"""

import asyncio

from tollway.bolt import BoltAPI, rate_limit

api = BoltAPI()


@api.get("/items/{item_id}")
async def item(item_id: int):
    return {"item_id": item_id}


@api.get("/limited/{item_id}")
@rate_limit(key="ip", rate="1000000000/s")
async def limited(item_id: int):
    return {"item_id": item_id}


@api.get("/refused/{item_id}")
@rate_limit(key="ip", rate="1/s")
async def refused(item_id: int):
    return {"item_id": item_id}


@api.get("/suspending/{item_id}")
async def suspending(item_id: int):
    await asyncio.sleep(0)
    return {"item_id": item_id}
