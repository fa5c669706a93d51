"""The body that is posted to every contender, and comes back."""

import msgspec


class Line(msgspec.Struct):
    item_id: int
    count: int
    note: str | None = None


class Order(msgspec.Struct):
    customer: str
    lines: list[Line]
