"""From a handler's signature to a plan that the server follows without looking at it again.

Everything that cannot work is an error here, at start-up, and names the handler, its file and
line, and the parameter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Optional, get_type_hints

import msgspec

from tollway.bolt.binding import BodyReader, Group, Step, compose, container, mutable
from tollway.bolt.kinds import (
    Scalar,
    Unwrapped,
    fields_of,
    is_document,
    is_scalar,
    sequence_of,
    unwrap,
)
from tollway.bolt.params import MISSING, Param
from tollway.errors import ConfigError

__all__ = ["Signature", "compile_signature", "describe"]

BODILESS: Final = ("GET", "HEAD", "OPTIONS")


@dataclass(slots=True)
class Signature:
    """How a handler is called."""

    mode: str
    """``async`` on the event loop, ``sync`` on the thread pool, ``inline`` on the loop's thread."""
    call: Callable[..., Any]
    """The handler itself, or a function that puts its arguments together first."""
    arguments: list[dict[str, Any]] = field(default_factory=list)
    """What the server passes to ``call``, in this order, as its native side reads it."""
    body: BodyReader | None = None


def describe(handler: Callable[..., Any]) -> str:
    """A handler for people: ``shop.api.get_item (shop/api.py:12)``."""
    inner = inspect.unwrap(handler)
    code = getattr(inner, "__code__", None)
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    return f"{name_of(handler)}{place}"


def name_of(handler: Callable[..., Any]) -> str:
    """The dotted name of a handler."""
    inner: Any = inspect.unwrap(handler)
    return f"{inner.__module__}.{getattr(inner, '__qualname__', type(inner).__qualname__)}"


def compile_signature(
    handler: Callable[..., Any], method: str, path_names: Collection[str], inline: bool = False
) -> Signature:
    """Read a handler's signature for a route.

    Raises ConfigError when a parameter cannot be read from a request.
    """
    compiler = _Compiler(handler, method, tuple(path_names))
    return compiler.compile(inline)


class _Compiler:
    """The work of one :func:`compile_signature`."""

    def __init__(self, handler: Callable[..., Any], method: str, names: tuple[str, ...]) -> None:
        self.handler = handler
        self.method = method
        self.path_names = names
        self.arguments: list[dict[str, Any]] = []
        self.steps: list[Step] = []
        self.body: BodyReader | None = None
        self.used: set[str] = set()
        self.takes_request = False

    def compile(self, inline: bool) -> Signature:
        mode = self._mode(inline)
        for parameter, annotation in self._parameters():
            before = len(self.arguments)
            build = self._parameter(parameter, annotation)
            keyword = parameter.name if parameter.kind is parameter.KEYWORD_ONLY else None
            self.steps.append(Step(before, len(self.arguments) - before, build, keyword))
        unused = [name for name in self.path_names if name not in self.used]
        if unused and not self.takes_request:
            self._fail(f"the path has {{{unused[0]}}} but no parameter takes it: add `{unused[0]}`")
        call = compose(self.handler, self.steps)
        return Signature(mode, call, self.arguments, self.body)

    def _fail(self, what: str, parameter: str | None = None) -> Any:
        named = f", parameter {parameter!r}" if parameter else ""
        raise ConfigError(f"handler {describe(self.handler)}{named}: {what}") from None

    def _mode(self, inline: bool) -> str:
        handler: Any = self.handler
        inner = inspect.unwrap(handler)
        if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
            self._fail("a handler returns its answer, it does not yield it")
        # A function that wraps an `async def` hands its coroutine on; an object need not.
        called = inner if inspect.isroutine(handler) else type(handler).__call__
        is_async = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(called)
        if is_async and inline:
            self._fail("inline=True is for `def` handlers: leave it out")
        return "async" if is_async else "inline" if inline else "sync"

    def _parameters(self) -> list[tuple[inspect.Parameter, Any]]:
        try:
            parameters = list(inspect.signature(self.handler).parameters.values())
        except (TypeError, ValueError) as error:
            self._fail(f"its signature cannot be read: {error}")
        hints = self._hints(parameters)
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
                self._fail("write the parameters out", stars + parameter.name)
        return [(parameter, hints.get(parameter.name)) for parameter in parameters]

    def _hints(self, parameters: list[inspect.Parameter]) -> dict[str, Any]:
        inner: Any = inspect.unwrap(self.handler)
        if not inspect.isroutine(inner):
            inner = type(inner).__call__
        try:
            return get_type_hints(inner, include_extras=True)
        except Exception as error:
            for parameter in parameters:
                self._try_hint(inner, parameter)
            return self._fail(f"its annotations cannot be read: {error}")  # type: ignore[no-any-return]

    def _try_hint(self, inner: Any, parameter: inspect.Parameter) -> None:
        text = parameter.annotation
        if not isinstance(text, str):
            return
        try:
            eval(text, getattr(inner, "__globals__", {}))
        except Exception as error:
            self._fail(
                f"its annotation {text!r} cannot be read: {error}. Import the type at the top of "
                "the module, not under TYPE_CHECKING or inside a function",
                parameter.name,
            )

    def _parameter(self, parameter: inspect.Parameter, annotation: Any) -> Any:
        """Plan one parameter. Returns what builds it from its arguments, or None."""
        name = parameter.name
        whole = str if annotation is None else annotation
        if isinstance(parameter.default, Param):
            whole = Annotated[whole, parameter.default]
        found = self._unwrap(name, whole)
        marker, default = self._marker(parameter, found)
        if marker is None and self._is_request(name, found.core, annotation):
            self.takes_request = True
            self.arguments.append({"name": name, "source": "request"})
            return None
        source = self._source(name, found, marker)
        if source == "body":
            return self._body(name, found, default)
        wire = self._wire(name, source, marker)
        if source == "path":
            self._path(name, wire, found, default)
        members = fields_of(found.core) if source != "path" else None
        if members is not None:
            return self._group(name, source, found.core, members)
        return self._value(name, source, wire, found, marker, default)

    def _unwrap(self, name: str, annotation: Any) -> Unwrapped:
        try:
            return unwrap(annotation)
        except TypeError as error:
            return self._fail(str(error), name)  # type: ignore[no-any-return]

    def _marker(self, parameter: inspect.Parameter, found: Unwrapped) -> tuple[Param | None, Any]:
        """The parameter's marker and its default."""
        name, markers = parameter.name, found.markers
        if len(markers) > 1:
            kinds = " and ".join(marker.kind for marker in markers)
            self._fail(f"has two sources, {kinds}: keep one", name)
        marker = markers[0] if markers else None
        if parameter.default is not parameter.empty and parameter.default is not marker:
            return marker, parameter.default
        if marker is None:
            return None, MISSING
        text = marker.default
        beside = parameter.default is parameter.empty and marker.source in ("header", "cookie")
        if beside and isinstance(text, str):
            self._fail(
                f"is {text!r} its name or its default? Write {marker.kind}(alias={text!r}) for "
                f"the name, or `= {text!r}` after the annotation for the default",
                name,
            )
        return marker, marker.default

    def _is_request(self, name: str, core: Any, annotation: Any) -> bool:
        if isinstance(core, type) and core.__name__ == "Request" and "tollway" in core.__module__:
            return True
        return name == "request" and (annotation is None or not is_scalar(core) or core is Any)

    def _source(self, name: str, found: Unwrapped, marker: Param | None) -> str:
        if marker is not None:
            return marker.source
        if name in self.path_names:
            return "path"
        if is_scalar(found.core) or sequence_of(found.core) is not None:
            return "query"
        if is_document(found.core):
            if self.method in BODILESS:
                self._fail(
                    f"{self.method} has no body to read {_shown(found.core)} from: use POST, or "
                    f"Annotated[{_shown(found.core)}, Query()] to read it from the query",
                    name,
                )
            return "body"
        return str(self._fail(f"{_shown(found.core)} cannot be read from a request", name))

    def _wire(self, name: str, source: str, marker: Param | None) -> str:
        if marker is not None and marker.alias:
            return marker.alias
        return name.replace("_", "-") if source == "header" else name

    def _path(self, name: str, wire: str, found: Unwrapped, default: Any) -> None:
        if wire not in self.path_names:
            there = ", ".join(self.path_names) or "none"
            self._fail(f"the path has no {{{wire}}}; it has: {there}", name)
        if default is not MISSING or found.optional:
            self._fail("a piece of the path is always there: it takes no default and no None", name)
        if not is_scalar(found.core):
            self._fail(f"a piece of the path cannot be {_shown(found.core)}", name)
        self.used.add(wire)

    def _body(self, name: str, found: Unwrapped, default: Any) -> None:
        if self.method in BODILESS:
            self._fail(f"{self.method} has no body: use POST, PUT, PATCH or DELETE", name)
        if self.body is not None:
            self._fail("the body is taken already: put both into one msgspec.Struct", name)
        if default is MISSING and found.optional:
            default = None
        annotation = Optional[found.type] if found.optional else found.type  # noqa: UP045
        try:
            self.body = BodyReader(annotation, default, raw=found.core is bytes)
        except TypeError as error:
            self._fail(str(error), name)
        else:
            self.arguments.append({"name": name, "source": "body", "decode": self.body.decode})

    def _group(
        self, name: str, source: str, core: Any, members: tuple[msgspec.structs.FieldInfo, ...]
    ) -> Group:
        """A Struct whose fields are parameters of their own."""
        group = Group(core, source, [member.name for member in members])
        for member in members:
            found = unwrap(member.type)
            inner = f"{name}.{member.name}"
            wire = self._wire(member.encode_name, source, None)
            default: Any = group.absent if not member.required or found.optional else MISSING
            build = self._value(inner, source, wire, found, None, default)
            group.builders.append(build)
        return group

    def _value(
        self,
        name: str,
        source: str,
        wire: str,
        found: Unwrapped,
        marker: Param | None,
        default: Any,
    ) -> Any:
        sequence = sequence_of(found.core)
        if sequence is not None and source == "cookie":
            self._fail("a cookie holds one value, not a list", name)
        if sequence is None and not is_scalar(found.core):
            self._fail(f"{_shown(found.core)} cannot be read from one {source} value", name)
        try:
            scalar = Scalar(sequence[1] if sequence else found.type)
            build = container(sequence[0], found, default, source, wire) if sequence else None
        except TypeError as error:
            self._fail(str(error), name)
        if default is MISSING and found.optional:
            default = None
        argument: dict[str, Any] = {
            "name": name,
            "alias": wire,
            "source": source,
            "kind": scalar.kind,
            "required": default is MISSING,
            "list": sequence is not None,
        }
        if default is not MISSING:
            argument["default"] = default
        if scalar.decode is not None:
            argument["decode"] = scalar.decode
        self.arguments.append(argument)
        return build or mutable(default)


def _shown(core: Any) -> str:
    return getattr(core, "__qualname__", None) or str(core).replace("typing.", "")
