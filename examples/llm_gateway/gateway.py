"""A gateway before a language model: requests and tokens per minute for each API key.

A request reserves what its answer may take at most, and pays for what it took. Counts are in Redis,
so any number of workers share them::

    GATEWAY_REDIS=redis://127.0.0.1:6379/0 uvicorn gateway:app --workers 2 --no-proxy-headers
"""

import os
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from tollway import Limiter, Policy, Reservation, StoreError, hash_identity
from tollway.fastapi import LimiterMiddleware, RateLimited, limit

limiter = Limiter(
    os.environ.get("GATEWAY_REDIS", "redis://127.0.0.1:6379/0"),
    fail_mode="closed",
    command_timeout=5.0,  # beside the time of an answer this is not long
    connect_timeout=5.0,
)
REQUESTS = Policy("requests", os.environ.get("GATEWAY_REQUESTS", "60/m"))
TOKENS = Policy("tokens", os.environ.get("GATEWAY_TOKENS", "20000/m"), algorithm="fixed_window")
by_key = limit(REQUESTS, limiter, key="api_key", share="policy")

app = FastAPI()
app.add_middleware(LimiterMiddleware)


class Question(BaseModel):
    """What is asked, and how long the answer may be at most."""

    prompt: str
    max_tokens: int = Field(default=256, ge=1, le=4096)


def account(x_api_key: Annotated[str, Header()] = "") -> str:
    """Whose tokens are spent. A real gateway looks the key up."""
    if not x_api_key:
        raise HTTPException(401, "Send your API key in the header X-API-Key.")
    return hash_identity(x_api_key)


async def model(question: Question) -> AsyncIterator[str]:
    """Stands for the model: it repeats the prompt, a word a token."""
    for word in question.prompt.split()[: question.max_tokens]:
        yield word


@app.post("/v1/answers", dependencies=[Depends(by_key)])
async def answer(
    question: Question, request: Request, key: Annotated[str, Depends(account)]
) -> Response:
    """Stream an answer."""
    asked = len(question.prompt.split())
    held = await limiter.areserve(TOKENS, key, cost=asked + question.max_tokens)
    if not held.allowed:
        return RateLimited(held.decision, request.scope, "problem").answer()
    return StreamingResponse(paid(question, asked, held), media_type="text/plain")


async def paid(question: Question, used: int, held: Reservation) -> AsyncIterator[str]:
    """The answer, paid for as far as it got."""
    try:
        async for token in model(question):
            used += 1
            yield token + "\n"
    finally:
        with suppress(StoreError):  # then the reservation stays charged; the log was told
            await held.acommit(actual=used)


@app.get("/v1/usage")
async def usage(key: Annotated[str, Depends(account)]) -> dict[str, int]:
    """What is left, asked without spending."""
    return {"tokens_left": (await limiter.apeek(TOKENS, key, 0)).remaining}
