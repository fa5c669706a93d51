"""How views and middleware ask: at once where they can, by steps where they must."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponseBase

from tollway.django import conf
from tollway.django.passage import Pairs, Passage, Toll, admit, answered, away, plain_toll
from tollway.django.steps import arun, run
from tollway.errors import StoreError


def admit_now(request: Any, passage: Passage, limits: Pairs) -> HttpResponseBase | None:
    """:func:`admit` for sync code."""
    setup = conf.current()
    only = _only(setup, request, passage, limits)
    if only is None:
        return run(admit(request, passage, limits))
    block = only.limit.block
    try:
        decision = only.limiter.check(*only.charge)
    except StoreError:
        return away(request, passage, block=block)
    if decision.allowed and setup.usage is None:
        passage.note(request, decision, False)
        return None
    return run(answered(setup, request, passage, decision, [only], block=block))


async def admit_later(request: Any, passage: Passage, limits: Pairs) -> HttpResponseBase | None:
    """:func:`admit` for async code."""
    setup = conf.current()
    only = _only(setup, request, passage, limits)
    if only is None:
        return await arun(admit(request, passage, limits))
    block = only.limit.block
    try:
        decision = await only.limiter.acheck(*only.charge)
    except StoreError:
        return away(request, passage, block=block)
    if decision.allowed and setup.usage is None:
        passage.note(request, decision, False)
        return None
    return await arun(answered(setup, request, passage, decision, [only], block=block))


def _only(setup: conf.Setup, request: Any, passage: Passage, limits: Pairs) -> Toll | None:
    """The one charge of a request whose one limit asks nobody but its store.

    Most requests are so, and need no steps: their way is as short as it can be.
    """
    pairs = (*passage.waiting, *limits) if passage.waiting else limits
    if len(pairs) != 1 or passage.met or passage.exempt or not setup.plain:
        return None
    ((limit, scope),) = pairs
    if not limit.plain or limit.shadow:
        return None
    toll = plain_toll(setup, request, limit, scope)
    if toll is not None:
        passage.waiting = ()
        passage.met = (limit.serial,)
    return toll
