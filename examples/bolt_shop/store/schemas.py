"""What goes over the wire."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct


class NewProduct(Struct):
    name: Annotated[str, Meta(min_length=1, max_length=80)]
    price_cents: Annotated[int, Meta(ge=0, le=100_000_000)]
    stock: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class ProductOut(Struct):
    id: int
    seller_id: int
    name: str
    price_cents: int
    stock: int
    picture: str


class NewOrder(Struct):
    product: int
    quantity: Annotated[int, Meta(ge=1, le=1000)] = 1


class OrderOut(Struct):
    id: int
    product_id: int
    quantity: int
    made: datetime


class Left(Struct):
    """An event: so many are left of a product."""

    product: int
    stock: int
