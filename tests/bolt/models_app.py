"""The API that tests of response models are served from; copied into a project."""

from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import msgspec

from shop.models import Item as Row
from tollway.bolt import JSON, BoltAPI, Depends, Redirect, middleware

api = BoltAPI()
loose = BoltAPI(validate_response=False)


class Item(msgspec.Struct):
    id: int
    name: Annotated[str, msgspec.Meta(max_length=20)]


class Trouble(msgspec.Struct):
    reason: str


class Summary(TypedDict):
    count: int


@dataclass
class Plain:
    name: str


@api.get("/struct")
async def struct() -> Item:
    return Item(1, "lamp")


@api.get("/filtered")
async def filtered() -> Item:
    return {"id": 1, "name": "lamp", "secret": "x"}  # type: ignore[return-value]


@api.get("/wrong")
async def wrong(exact: bool = False) -> list[Item]:
    if exact:
        return [Item("x", "y" * 21)]  # type: ignore[arg-type]
    return [{"id": "x", "name": "lamp"}, {"id": 2}]  # type: ignore[list-item]


@api.get("/rows")
def rows() -> list[Item]:
    return Row.objects.order_by("id")


async def checked() -> None:
    """Has the handler run on a thread that the event loop waits for."""


@api.get("/rows/after", dependencies=[Depends(checked)])
def rows_after_a_check() -> list[Item]:
    return Row.objects.order_by("id")


@middleware
async def passed(request, call_next):
    return await call_next(request)


@api.get("/rows/within")
@passed
def rows_within_a_middleware() -> list[Item]:
    return Row.objects.order_by("id")


@api.get("/row", response_model=Item)
def row():
    return Row.objects.get()


@api.get("/typed")
def typed() -> Summary:
    return {"count": 2, "more": 3}  # type: ignore[typeddict-unknown-key]


@api.get("/plain", response_model=Plain)
async def plain():
    return Row(name="lamp")


@api.post("/by-status", status_code=201, response_model={201: Item, 404: Trouble})
async def by_status(case: str) -> Any:
    if case == "made":
        return {"id": 1, "name": "lamp", "secret": "x"}
    if case == "missing":
        return JSON({"reason": "gone"}, status_code=404)
    if case == "broken":
        return JSON({"why": "gone"}, status_code=404)
    return Redirect("/elsewhere")


def opened():
    yield 1


@api.get("/open", dependencies=[Depends(opened)], response_model={200: Item})
def with_dependency(good: bool):
    return {"id": 1, "name": "lamp", "secret": "x"} if good else JSON({})


@loose.get("/loose")
async def unchecked() -> Item:
    return {"anything": 1}  # type: ignore[return-value]


@loose.get("/strict", validate_response=True)
async def checked() -> Item:
    return {"anything": 1}  # type: ignore[return-value]


@api.get("/dict")
async def free() -> dict[str, Any]:
    return {"anything": 1}


api.mount("/", loose)
