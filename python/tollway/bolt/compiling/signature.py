"""From a handler's signature to a plan that the server follows without looking at it again.

Everything that cannot work is an error here, at start-up, and names the handler, its file and
line, and the parameter.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Optional, get_args, get_origin, get_type_hints

import msgspec

from tollway.bolt.compiling.binding import BodyReader, Group, container
from tollway.bolt.compiling.composing import ASYNC, GENERATORS, Call, Step, compose
from tollway.bolt.compiling.kinds import (
    Scalar,
    Unwrapped,
    element_of,
    fields_of,
    is_document,
    is_file,
    is_scalar,
    resolve,
    sequence_of,
    unwrap,
)
from tollway.bolt.datastructures import UploadFile, content
from tollway.bolt.params import MISSING, Depends, File, Param
from tollway.bolt.server.threads import Threads
from tollway.bolt.streaming import events_of
from tollway.errors import ConfigError

__all__ = ["Around", "Signature", "compile_signature", "describe", "returns"]

BODILESS: Final = ("GET", "HEAD", "OPTIONS")
BODIES: Final = ("body", "form", "file")


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


@dataclass(slots=True)
class Around:
    """What belongs to a route's handler beside the handler itself."""

    dependencies: Sequence[Depends] = ()
    """Called before those of the handler's own parameters; what they return is not used."""
    overrides: Mapping[Any, Any] = field(default_factory=dict)
    """Dependencies, each with the one to call in its place."""
    threads: Threads = field(default_factory=Threads)
    built: Callable[[Any], Any] = lambda value: value
    """Makes a response while dependencies are still open."""
    checked: Callable[[Any], Any] | None = None
    """Looks at what is returned."""
    bound: Callable[[Any], Any] = lambda dependency: dependency
    """What is called in the place of a dependency here."""


def describe(handler: Callable[..., Any]) -> str:
    """A handler for people: ``shop.api.get_item (shop/api.py:12)``."""
    inner = _function(handler)
    if isinstance(inner, type):
        inner = inspect.getattr_static(inner, "__init__")
    code = getattr(inner, "__code__", None)
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
    return f"{name_of(handler)}{place}"


def name_of(handler: Callable[..., Any]) -> str:
    """The dotted name of a handler."""
    inner = _function(handler)
    return f"{inner.__module__}.{getattr(inner, '__qualname__', type(inner).__qualname__)}"


def _function(handler: Any) -> Any:
    """What was written, without decorators and ``functools.partial`` around it."""
    inner = inspect.unwrap(handler)
    while isinstance(inner, functools.partial):
        inner = inspect.unwrap(inner.func)
    return inner


def _code(handler: Any) -> Any:
    """The function that runs when ``handler`` is called."""
    inner = _function(handler)
    if inspect.isroutine(inner) or isinstance(inner, type):
        return inner
    return type(inner).__call__


def _kind(handler: Any) -> str:
    """How a callable is called: ``sync``, ``async``, ``generator`` or ``async generator``."""
    code = _code(handler)
    if inspect.isasyncgenfunction(code):
        return "async generator"
    if inspect.isgeneratorfunction(code):
        return "generator"
    # A function that wraps an `async def` hands its coroutine on.
    is_async = inspect.iscoroutinefunction(code) or inspect.iscoroutinefunction(handler)
    return "async" if is_async else "sync"


def compile_signature(
    handler: Callable[..., Any],
    method: str,
    path_names: Collection[str],
    inline: bool = False,
    around: Around | None = None,
) -> Signature:
    """Read a handler's signature for a route.

    Raises ConfigError when a parameter cannot be read from a request.
    """
    compiler = _Compiler(handler, method, tuple(path_names), around or Around())
    return compiler.compile(inline)


class _Compiler:
    """The work of one :func:`compile_signature`."""

    def __init__(
        self, handler: Callable[..., Any], method: str, names: tuple[str, ...], around: Around
    ) -> None:
        self.handler = handler
        self.method = method
        self.path_names = names
        self.around = around
        self.arguments: list[dict[str, Any]] = []
        self.calls: list[Call] = []
        self.body: BodyReader | None = None
        self.body_argument = 0
        self.body_takers: list[Callable[..., Any]] = []
        self.used: set[str] = set()
        self.takes_request = False
        self.cached: dict[Any, int] = {}
        self.within: list[Callable[..., Any]] = []
        """The dependencies whose parameters are being read, the innermost last."""

    def compile(self, inline: bool) -> Signature:
        kind = _kind(self.handler)
        handler = self.handler
        if kind in GENERATORS:
            # Calling it runs nothing of it yet.
            handler, kind = events_of(handler), "sync"
        if kind == "async" and inline:
            self._fail("inline=True is for `def` handlers: leave it out")
        for marker in self.around.dependencies:
            self._dependency(marker, None, None)
        self._call(handler, kind, quick=handler is not self.handler)
        unused = [name for name in self.path_names if name not in self.used]
        if unused and not self.takes_request:
            self._fail(f"the path has {{{unused[0]}}} but no parameter takes it: add `{unused[0]}`")
        if self.body and any(argument["source"] in BODIES[1:] for argument in self.arguments):
            self._fail("the body is both JSON and a form: put all of it into the form")
        around = self.around
        on_loop, call = compose(
            self.calls, len(self.arguments), around.threads, around.built, around.checked
        )
        if on_loop and inline:
            needed = next(call for call in self.calls if call.kind in ASYNC)
            self._fail(f"inline=True, but the dependency {needed.name} is async: leave it out")
        inline = inline or (handler is not self.handler and len(self.calls) == 1)
        mode = "async" if on_loop else "inline" if inline else "sync"
        return Signature(mode, call, self.arguments, self.body)

    def _fail(self, what: str, parameter: str | None = None) -> Any:
        places = [f"handler {describe(self.handler)}"]
        places += [f"dependency {describe(target)}" for target in self.within[-1:]]
        if parameter:
            places.append(f"parameter {parameter!r}")
        raise ConfigError(f"{', '.join(places)}: {what}") from None

    def _call(self, target: Callable[..., Any], kind: str, quick: bool) -> int:
        """Plan the call of a dependency or of the handler, after those that it needs."""
        steps = []
        for parameter, annotation in self._parameters(target):
            keyword = parameter.name if parameter.kind is parameter.KEYWORD_ONLY else None
            marker = _depends(parameter, annotation)
            if marker is not None:
                result = self._dependency(marker, annotation, parameter.name)
                steps.append(Step(keyword=keyword, result=result))
                continue
            before = len(self.arguments)
            start, build = self._parameter(parameter, annotation)
            count = max(len(self.arguments) - before, 1)
            steps.append(Step(start, count, build, keyword))
        self.calls.append(Call(target, name_of(target), kind, quick, steps))
        return len(self.calls) - 1

    def _dependency(self, marker: Depends, annotation: Any, parameter: str | None) -> int:
        """Plan a dependency, unless it is planned already. Returns the position of its call."""
        target: Any = marker.dependency
        if target is None and annotation is not None:
            target = unwrap(annotation).core
        if target in self.around.overrides:
            target = self.around.overrides[target]
            # What stands in may do without the piece of the path that the original took.
            self.used.update(self.path_names)
        target = self.around.bound(target)
        if not callable(target):
            self._fail(f"Depends({target!r}) is not a function or a class", parameter)
        if fields_of(target) is not None:
            name = name_of(target)
            self._fail(f"{name} is a Struct: write Annotated[{name}, Query()]", parameter)
        known = self.cached.get(target)
        if known is not None and marker.use_cache:
            return known
        if target in self.within:
            circle = [*self.within[self.within.index(target) :], target]
            self._fail(f"dependencies go in a circle: {' -> '.join(map(name_of, circle))}")
        self.within.append(target)
        kind = _kind(target)
        is_class = isinstance(target, type)
        position = self._call(target, kind, quick=marker.inline or is_class)
        self.within.pop()
        if marker.use_cache:
            self.cached[target] = position
        return position

    def _parameters(self, target: Callable[..., Any]) -> list[tuple[inspect.Parameter, Any]]:
        try:
            parameters = list(inspect.signature(target).parameters.values())
        except (TypeError, ValueError) as error:
            self._fail(f"its signature cannot be read: {error}")
        hints = self._hints(target, parameters)
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
                self._fail("write the parameters out", stars + parameter.name)
        return [(parameter, hints.get(parameter.name)) for parameter in parameters]

    def _hints(
        self, target: Callable[..., Any], parameters: list[inspect.Parameter]
    ) -> dict[str, Any]:
        inner = _code(target)
        if isinstance(inner, type):
            inner = inspect.getattr_static(inner, "__init__")
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

    def _parameter(self, parameter: inspect.Parameter, annotation: Any) -> tuple[int, Any]:
        """Plan one parameter. Returns its first argument and what builds it, or None."""
        name, start = parameter.name, len(self.arguments)
        whole = str if annotation is None else annotation
        if isinstance(parameter.default, Param):
            whole = Annotated[whole, parameter.default]
        found = self._unwrap(name, whole)
        marker, default = self._marker(parameter, found)
        if marker is None and self._is_request(name, found.core, annotation):
            self.takes_request = True
            self.arguments.append({"name": name, "source": "request"})
            return start, None
        source = self._source(name, found, marker)
        if source in BODIES and self.method in BODILESS:
            self._fail(f"{self.method} has no body: use POST, PUT, PATCH or DELETE", name)
        if source == "body":
            return self._body(name, found, default), None
        wire = self._wire(name, source, marker)
        if source == "path":
            self._path(name, wire, found, default)
        if source == "file":
            self._file(name, wire, found, marker, default)
            return start, None
        members = fields_of(found.core) if source != "path" else None
        if members is not None:
            return start, self._group(name, source, found.core, members)
        self._value(name, source, wire, found, default)
        return start, None

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
        written = parameter.default is not parameter.empty and parameter.default is not marker
        if marker is None:
            return None, parameter.default if written else MISSING
        text = marker.default
        if written and text is MISSING:
            return marker, parameter.default
        beside = parameter.default is not marker and marker.source in ("header", "cookie")
        if (beside or written) and isinstance(text, str):
            self._fail(
                f"is {text!r} its name or its default? Write {marker.kind}(alias={text!r}) for "
                f"the name, or `= {text!r}` after the annotation for the default",
                name,
            )
        if written:
            self._fail(f"has two defaults, {text!r} and {parameter.default!r}: keep one", name)
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
        if is_file(found.core):
            return "file"
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

    def _body(self, name: str, found: Unwrapped, default: Any) -> int:
        """Plan the body. Returns its argument, which several parameters of one type share."""
        if default is MISSING and found.optional:
            default = None
        annotation = Optional[found.type] if found.optional else found.type  # noqa: UP045
        taker = self.within[-1] if self.within else self.handler
        if self.body is not None:
            if taker not in self.body_takers and self.body.annotation == annotation:
                return self.body_argument
            self._fail("the body is taken already: put both into one msgspec.Struct", name)
        self.body_takers.append(taker)
        self.body_argument = len(self.arguments)
        try:
            self.body = BodyReader(annotation, default, raw=found.core is bytes)
        except TypeError as error:
            self._fail(str(error), name)
        else:
            self.arguments.append({"name": name, "source": "body", "decode": self.body.decode})
        return self.body_argument

    def _group(
        self, name: str, source: str, core: Any, members: tuple[msgspec.structs.FieldInfo, ...]
    ) -> Group:
        """A Struct whose fields are parameters of their own."""
        group = Group(core, source, [member.name for member in members])
        for member in members:
            found = unwrap(member.type)
            inner = f"{name}.{member.name}"
            wire = self._wire(member.encode_name, source, None)
            default: Any = MISSING if member.required else group.absent
            if source == "form" and is_file(found.core):
                self._file(inner, wire, found, None, default)
            else:
                self._value(inner, source, wire, found, default)
        return group

    def _value(self, name: str, source: str, wire: str, found: Unwrapped, default: Any) -> None:
        sequence = sequence_of(found.core)
        if sequence is not None and source == "cookie":
            self._fail("a cookie holds one value, not a list", name)
        if sequence is None and not is_scalar(found.core):
            self._fail(f"{_shown(found.core)} cannot be read from one {source} value", name)
        try:
            scalar = Scalar(sequence[1] if sequence else found.type)
            whole = container(sequence[0], found) if sequence else None
        except TypeError as error:
            self._fail(str(error), name)
        argument = self._argument(name, source, wire, found, default)
        argument |= {"kind": scalar.kind, "list": sequence is not None, "whole": whole}
        if scalar.decode is not None:
            argument["decode"] = scalar.decode

    def _file(
        self, name: str, wire: str, found: Unwrapped, marker: Param | None, default: Any
    ) -> None:
        sequence = element_of(found.core)
        core = sequence[1] if sequence else found.core
        if core is not UploadFile and core is not bytes:
            self._fail(f"{_shown(found.core)} cannot be a file: use UploadFile or bytes", name)
        argument = self._argument(name, "file", wire, found, default)
        argument |= {
            "kind": "str",
            "list": sequence is not None,
            "decode": UploadFile if core is UploadFile else content,
            "whole": container(sequence[0], found) if sequence else None,
            **(marker.rules if isinstance(marker, File) else {}),
        }

    def _argument(
        self, name: str, source: str, wire: str, found: Unwrapped, default: Any
    ) -> dict[str, Any]:
        """Add what the server has to read, with its default."""
        if default is MISSING and found.optional:
            default = None
        argument = {"name": name, "alias": wire, "source": source, "required": default is MISSING}
        if default is not MISSING:
            argument["default"] = default
            argument["copied"] = isinstance(default, list | dict | set)
        self.arguments.append(argument)
        return argument


def _shown(core: Any) -> str:
    return getattr(core, "__qualname__", None) or str(core).replace("typing.", "")


def _depends(parameter: inspect.Parameter, annotation: Any) -> Depends | None:
    """The ``Depends`` of a parameter, if it has one."""
    extras: tuple[Any, ...] = (parameter.default,)
    annotation = resolve(annotation)
    if get_origin(annotation) is Annotated:
        extras += get_args(annotation)[1:]
    for extra in extras:
        if isinstance(extra, Depends):
            return extra
        if extra is Depends:
            return Depends()
    return None


def returns(handler: Callable[..., Any]) -> Any:
    """The return annotation of a handler whose parameters were read, or None without one.

    What a generator yields are events: its annotation promises no answer.
    """
    if _kind(handler) in GENERATORS:
        return None
    return get_type_hints(_code(handler), include_extras=True).get("return")
