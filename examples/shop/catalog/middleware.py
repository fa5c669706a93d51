"""Says in every answer which process made it, so that one can see that several do."""

import os
from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.utils.decorators import sync_and_async_middleware


@sync_and_async_middleware
def name_worker(get_response: Callable[..., Any]) -> Callable[..., Any]:
    """Write the header `Worker`."""
    if iscoroutinefunction(get_response):

        async def later(request: Any) -> Any:
            response = await get_response(request)
            response.headers["Worker"] = str(os.getpid())
            return response

        return later

    def now(request: Any) -> Any:
        response = get_response(request)
        response.headers["Worker"] = str(os.getpid())
        return response

    return now
