"""Where a parameter comes from, when its name and type alone do not say.

Markers go into ``Annotated`` or stand as the default::

    from typing import Annotated
    from tollway.bolt.params import Header, Query

    async def search(
        q: Annotated[str, Query(min_length=2)],
        page: int = Query(1, ge=1),
        agent: Annotated[str | None, Header(alias="User-Agent")] = None,
    ): ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

__all__ = [
    "MISSING",
    "Body",
    "Cookie",
    "Depends",
    "File",
    "Form",
    "Header",
    "Param",
    "Path",
    "Query",
]


class _Missing:
    """The type of :data:`MISSING`."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""Stands for "no default": ``None`` is a default like any other."""


class Param:
    """What all markers share.

    ``alias`` is the name on the wire. The constraints are those of ``msgspec.Meta``.
    """

    source = ""

    def __init__(
        self,
        default: Any = MISSING,
        *,
        alias: str | None = None,
        ge: float | None = None,
        gt: float | None = None,
        le: float | None = None,
        lt: float | None = None,
        multiple_of: float | None = None,
        min_length: int | None = None,
        max_length: int | None = None,
        pattern: str | None = None,
        description: str | None = None,
    ) -> None:
        self.default: Any = MISSING if default is ... else default
        self.alias = alias
        self.description = description
        constraints: dict[str, Any] = {
            "ge": ge,
            "gt": gt,
            "le": le,
            "lt": lt,
            "multiple_of": multiple_of,
            "min_length": min_length,
            "max_length": max_length,
            "pattern": pattern,
        }
        self.constraints = {name: value for name, value in constraints.items() if value is not None}

    def meta(self) -> msgspec.Meta | None:
        """The constraints as msgspec knows them, or None without any."""
        return msgspec.Meta(**self.constraints) if self.constraints else None

    @property
    def kind(self) -> str:
        """The marker's name, for messages."""
        return type(self).__name__

    def __repr__(self) -> str:
        return f"{self.kind}()"


class Path(Param):
    """A piece of the path: ``/items/{item_id}``."""

    source = "path"


class Query(Param):
    """A value of the query string; a ``list`` takes every value of a repeated key."""

    source = "query"


class Header(Param):
    """A header. Without an alias, ``x_request_id`` reads ``X-Request-Id``."""

    source = "header"


class Cookie(Param):
    """A cookie."""

    source = "cookie"


class Body(Param):
    """The body, decoded from JSON; with the type ``bytes`` it is the raw body."""

    source = "body"


class Form(Param):
    """A field of a form, urlencoded or multipart; a ``list`` takes every value of its name."""

    source = "form"


class File(Param):
    """A file of a multipart form: an ``UploadFile``, its ``bytes``, or a ``list`` of either.

    ``max_size`` and ``min_size`` are bytes of each file, ``allowed_types`` media types such as
    ``"image/png"`` or ``"image/*"`` as the client states them, ``max_files`` bounds a list.
    """

    source = "file"

    def __init__(
        self,
        default: Any = MISSING,
        *,
        alias: str | None = None,
        max_size: int | None = None,
        min_size: int | None = None,
        allowed_types: Sequence[str] = (),
        max_files: int | None = None,
        description: str | None = None,
    ) -> None:
        super().__init__(default, alias=alias, description=description)
        types = [allowed_types] if isinstance(allowed_types, str) else allowed_types
        self.rules: dict[str, Any] = {
            "max_size": None if max_size is None else int(max_size),
            "min_size": min_size,
            "types": [str(name) for name in types],
            "max_files": max_files,
        }


class Depends:
    """What a function of yours returns for this request::

        async def find_shop(slug: str) -> Shop: ...

        @api.get("/{slug}/items")
        async def items(shop: Annotated[Shop, Depends(find_shop)]): ...

    ``dependency`` is a function or a class, plain or async; the annotated type if left out. Its
    parameters are read as those of a handler, and may be dependencies themselves. With a single
    ``yield`` it gives what it yields, and goes on after the answer was made: the rest cleans up.

    It is called once for each request, wherever it is asked for; ``use_cache=False`` calls it
    once more here. ``inline=True`` runs a plain function on the event loop's thread when the
    handler is async: quicker, but it must not wait for anything.
    """

    __slots__ = ("dependency", "inline", "use_cache")

    def __init__(
        self,
        dependency: Callable[..., Any] | None = None,
        *,
        use_cache: bool = True,
        inline: bool = False,
    ) -> None:
        self.dependency = dependency
        self.use_cache = use_cache
        self.inline = inline

    def __repr__(self) -> str:
        name = getattr(self.dependency, "__qualname__", "") if self.dependency else ""
        return f"Depends({name})"
