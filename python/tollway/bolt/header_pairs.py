"""The headers of a response: a list of pairs that also knows names."""

from __future__ import annotations

from typing import Any

__all__ = ["HeaderPairs"]


def checked(name: str, value: str) -> tuple[str, str]:
    """A header that cannot end its line."""
    if any(character in name + value for character in "\r\n\0"):
        raise ValueError(f"the header {name!r} cannot have the value {value!r}")
    return name, value


class HeaderPairs(list[tuple[str, str]]):
    """Pairs in their order, where a name may come twice; by name as Django's headers are.

    >>> headers = HeaderPairs([("vary", "origin"), ("Vary", "cookie")])
    >>> headers["X-Page"] = "2"
    >>> headers["vary"], headers.get("etag"), "x-page" in headers
    ('origin, cookie', None, True)
    >>> del headers["VARY"]
    >>> headers
    [('X-Page', '2')]

    Names are compared without regard to case. Setting one replaces every other of that name.
    """

    __slots__ = ()

    def without(self, name: str) -> list[tuple[str, str]]:
        """The pairs of all other names."""
        lower = name.lower()
        return [pair for pair in self if pair[0].lower() != lower]

    def __getitem__(self, place: Any) -> Any:
        if not isinstance(place, str):
            return super().__getitem__(place)
        found = self.get(place)
        if found is None:
            raise KeyError(place)
        return found

    def __setitem__(self, place: Any, value: Any) -> None:
        if not isinstance(place, str):
            super().__setitem__(place, value)
            return
        pair = checked(place, str(value))
        self[:] = [*self.without(place), pair]

    def __delitem__(self, place: Any) -> None:
        if not isinstance(place, str):
            super().__delitem__(place)
            return
        self[:] = self.without(place)

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, str):
            return super().__contains__(item)
        return self.get(item) is not None

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a name; those of several in one line."""
        lower = name.lower()
        values = [value for key, value in self if key.lower() == lower]
        return ", ".join(values) if values else default

    def setdefault(self, name: str, value: str) -> str:
        """Set a header unless it is there; returns what is there then."""
        found = self.get(name)
        if found is None:
            self[name] = found = value
        return str(found)

    def items(self) -> list[tuple[str, str]]:
        """All pairs."""
        return list(self)
