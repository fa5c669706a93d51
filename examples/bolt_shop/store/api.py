"""The shop's API."""

import asyncio
import csv
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

from django.conf import settings
from django.db import transaction
from django.db.models import F

from store.accounts import Me, token, views
from store.models import Order, Product
from store.schemas import NewOrder, NewProduct, OrderOut, ProductOut
from store.shelf import Shelf
from tollway.bolt import (
    BoltAPI,
    Conflict,
    Depends,
    File,
    FileResponse,
    FileSize,
    Forbidden,
    IsAuthenticated,
    NotFound,
    ServerSentEvent,
    StreamingResponse,
    UnprocessableEntity,
    UploadFile,
    rate_limit,
)
from tollway.bolt.auth import HasPermission
from tollway.bolt.health import add_health_check, check_database, register_health_checks


@asynccontextmanager
async def lifespan(api: BoltAPI) -> AsyncIterator[None]:
    api.state.shelf = Shelf()
    looking = asyncio.create_task(api.state.shelf.look())
    yield
    looking.cancel()


api = BoltAPI(prefix="/api", auth=[token], lifespan=lifespan)
api.include_router(views)
register_health_checks(api)
add_health_check(api, "database", check_database)


def product_of(product_id: int) -> Product:
    found = Product.objects.filter(pk=product_id).first()
    if found is None:
        raise NotFound(f"there is no product {product_id}")
    return found


Found = Annotated[Product, Depends(product_of)]


def own_product(product: Found, me: Me) -> Product:
    if product.seller_id != me:
        raise Forbidden("this is somebody else's product")
    return product


Own = Annotated[Product, Depends(own_product)]


@api.get("/products")
@rate_limit("300/m", key="user", name="browse")
def products(offset: int = 0, limit: int = 20) -> list[ProductOut]:
    return Product.objects.order_by("pk")[offset : offset + min(limit, 100)]


@api.get("/products/{product_id}")
@rate_limit("300/m", key="user", name="browse")
def product(product: Found) -> ProductOut:
    return product


@api.get("/search")
@rate_limit("20/h", key="user", name="search", tiers={"free": "40/h", "paid": "80/h"})
async def search(q: str) -> list[ProductOut]:
    found = Product.objects.filter(name__icontains=q).order_by("pk")[:20]
    return [product async for product in found]


@api.post("/products", status_code=201, guards=[HasPermission("store.add_product")])
def add_product(new: NewProduct, me: Me) -> ProductOut:
    return Product.objects.create(
        seller_id=me, name=new.name, price_cents=new.price_cents, stock=new.stock
    )


@api.put("/products/{product_id}", guards=[HasPermission("store.change_product")])
def change_product(product: Own, new: NewProduct) -> ProductOut:
    product.name, product.price_cents, product.stock = new.name, new.price_cents, new.stock
    product.save(update_fields=["name", "price_cents", "stock"])
    return product


@api.delete(
    "/products/{product_id}", status_code=204, guards=[HasPermission("store.delete_product")]
)
def remove_product(product: Own) -> None:
    if product.order_set.exists():
        raise Conflict("somebody has bought it: set its stock to 0 instead")
    product.delete()


KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpg"}
"""How the content of a picture begins: what a client says of it is only said."""

Picture = Annotated[
    UploadFile, File(max_size=FileSize.MB_1, allowed_types=["image/png", "image/jpeg"])
]


@api.put(
    "/products/{product_id}/picture",
    guards=[HasPermission("store.change_product")],
    max_body=FileSize.MB_2,
)
def put_picture(product: Own, picture: Picture) -> ProductOut:
    head = picture.read(8)
    kind = next((kind for start, kind in KINDS.items() if head.startswith(start)), None)
    if kind is None:
        raise UnprocessableEntity("this is neither PNG nor JPEG")
    product.picture = f"{product.pk}.{kind}"
    picture.save(settings.MEDIA_ROOT / product.picture)
    product.save(update_fields=["picture"])
    return product


@api.get("/products/{product_id}/picture")
def get_picture(product: Found):
    if not product.picture:
        raise NotFound("it has no picture")
    return FileResponse(settings.MEDIA_ROOT / product.picture)


@api.post("/orders", status_code=201, guards=[IsAuthenticated()])
@rate_limit("30/m", key="user", name="orders")
def order(new: NewOrder, me: Me) -> OrderOut:
    with transaction.atomic():
        there = Product.objects.filter(pk=new.product, stock__gte=new.quantity)
        if not there.update(stock=F("stock") - new.quantity):
            raise Conflict(f"there are not {new.quantity} of product {new.product}")
        return Order.objects.create(customer_id=me, product_id=new.product, quantity=new.quantity)


@api.get("/orders", guards=[IsAuthenticated()])
def orders(me: Me) -> list[OrderOut]:
    return Order.objects.filter(customer_id=me).order_by("pk")


class Line:
    """A file that hands each line back."""

    def write(self, text: str) -> str:
        return text


@api.get("/orders.csv", guards=[IsAuthenticated()])
def orders_as_csv(me: Me):
    def lines() -> Iterator[str]:
        row = csv.writer(Line()).writerow
        yield row(["order", "product", "quantity", "cents"])
        mine = Order.objects.filter(customer_id=me).order_by("pk").select_related("product")
        for one in mine.iterator():
            cents = one.quantity * one.product.price_cents
            yield row([one.pk, one.product.name, one.quantity, cents])

    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8")


@api.get("/stock")
async def stock() -> AsyncIterator[ServerSentEvent]:
    """Events for as long as somebody listens: what is left, then every change."""
    async for left in api.state.shelf.changes():
        yield ServerSentEvent(left, event="stock")
