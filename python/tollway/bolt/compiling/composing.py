"""One function out of a handler and everything that has to happen before and after it.

The order of the calls, what runs where and what is cleaned up is decided once, when the server
starts, and written down as the source of a Python function. A request then runs that function,
and nothing of what is not needed for it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from tollway.bolt.exceptions import RequestValidationError
from tollway.bolt.server.threads import Threads

__all__ = ["ASYNC", "GENERATORS", "Call", "Step", "compose"]

ASYNC: Final = ("async", "async generator")
GENERATORS: Final = ("generator", "async generator")


@dataclass(frozen=True, slots=True)
class Step:
    """One parameter of a call: the server's arguments it is built from, or a call's result."""

    start: int = 0
    count: int = 1
    build: Callable[..., Any] | None = None
    keyword: str | None = None
    result: int | None = None
    """The position of the call whose result it is, where it is not read from the request."""


@dataclass(slots=True)
class Call:
    """One call of a request: a dependency or, at the end, the handler."""

    target: Callable[..., Any]
    name: str
    kind: str
    """``sync``, ``async``, ``generator`` or ``async generator``."""
    quick: bool = False
    """Whether it may run on the loop's thread although it is a plain function."""
    steps: list[Step] = field(default_factory=list)


def compose(
    calls: list[Call],
    width: int,
    threads: Threads,
    built: Callable[[Any], Any],
    checked: Callable[[Any], Any] | None,
) -> tuple[bool, Callable[..., Any]]:
    """A function of the server's ``width`` arguments that makes all ``calls`` in order.

    ``threads`` runs plain functions where the event loop must not wait for them; ``built`` makes
    the response while dependencies are still open, and on the thread of a handler that was sent to
    one: a QuerySet is read there. ``checked`` looks at what is returned wherever it is given.
    Returns whether the function is to be run on
    the event loop, and the function: the last call's own target wherever that is enough.
    """
    *needed, handler = calls
    plain = all(step.build is None and step.keyword is None for step in handler.steps)
    if plain and not needed and checked is None:
        return handler.kind == "async", handler.target
    opens = any(call.kind in GENERATORS for call in needed)
    sent = any(call.kind in ASYNC for call in needed) and _waits(handler)
    return _Writer(calls, width, threads, built if opens or sent else checked).compiled()


def _waits(call: Call) -> bool:
    """Whether a call may keep others waiting, so that the event loop sends it to a thread."""
    return call.kind in ("sync", "generator") and not call.quick


class _Writer:
    """Writes the source of one function, and what its names stand for."""

    def __init__(
        self,
        calls: list[Call],
        width: int,
        threads: Threads,
        finish: Callable[[Any], Any] | None,
    ) -> None:
        needed = calls[:-1]
        self.calls = calls
        self.width = width
        self.names: dict[str, Any] = {"Invalid": RequestValidationError}
        self.built: list[tuple[str, str]] = []
        self.lines: list[str] = []
        self.depth = 1
        self.opens = [call.name for call in needed if call.kind in GENERATORS]
        self.on_loop = any(call.kind in ASYNC for call in calls)
        # Only then does somebody have to wait before or after the handler is called.
        first = any(call.kind != "sync" or not call.quick for call in needed)
        self.awaits = self.on_loop and (first or finish is not None)
        self.threads = threads
        self.finish = finish
        self.names["finish"] = finish

    def compiled(self) -> tuple[bool, Callable[..., Any]]:
        # What parameters are built from is read before anything is called.
        inputs = [[self._input(step) for step in call.steps] for call in self.calls]
        for position, (call, given) in enumerate(zip(self.calls, inputs, strict=True)):
            self._call(position, call, ", ".join(given))
        if self.opens:
            self.depth = 1
            self.names["swallowed"] = _swallowed(self.calls[-1].name, self.opens)
            self._write("raise swallowed()")
        values = ", ".join(f"v{index}" for index in range(self.width))
        head = f"{'async ' if self.awaits else ''}def call({values}):"
        source = "\n".join([head, *self._readings(), *self.lines])
        code = compile(source, f"<the call of {self.calls[-1].name}>", "exec")
        exec(code, self.names)
        made: Callable[..., Any] = self.names["call"]
        return self.on_loop, made

    def _write(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)

    def _input(self, step: Step) -> str:
        values = ", ".join(f"v{index}" for index in range(step.start, step.start + step.count))
        if step.result is not None:
            value = f"d{step.result}"
        elif step.build is None:
            value = values
        else:
            value = f"p{len(self.built)}"
            self.names[f"b{len(self.built)}"] = step.build
            self.built.append((value, values))
        return f"{step.keyword}={value}" if step.keyword else value

    def _readings(self) -> list[str]:
        """Builds all parameters that are made of several values, and collects what they refuse."""
        if not self.built:
            return []
        self.names["every"] = _every
        made = [f"        {name} = b{name[1:]}({values})" for name, values in self.built]
        tries = ", ".join(f"(b{name[1:]}, ({values},))" for name, values in self.built)
        caught = ["    except Invalid as error:", f"        raise every(error, {tries}) from None"]
        return ["    try:", *made, *caught]

    def _call(self, position: int, call: Call, given: str) -> None:
        last = position == len(self.calls) - 1
        hops = self.on_loop and _waits(call)
        name = f"f{position}"
        self.names[name] = self._target(call, hops)
        if call.kind in GENERATORS:
            waits = "async " if hops or call.kind in ASYNC else ""
            self._write(f"{waits}with {name}({given}) as d{position}:")
            self.depth += 1
            return
        waits = "await " if self.awaits and (hops or call.kind in ASYNC) else ""
        made = f"{waits}{name}({given})"
        if not last:
            self._write(f"d{position} = {made}")
        else:
            here = self.finish is not None and not hops
            self._write(f"return finish({made})" if here else f"return {made}")

    def _target(self, call: Call, hops: bool) -> Callable[..., Any]:
        opened: Callable[..., Any]
        if call.kind == "async generator":
            return asynccontextmanager(call.target)
        if call.kind == "generator":
            opened = contextmanager(call.target)
            return self.threads.entered(opened) if hops else opened
        if not hops:
            return call.target
        ends = call is self.calls[-1] and self.finish is not None
        return self.threads.called(_finished(call.target, self.finish) if ends else call.target)


def _finished(target: Callable[..., Any], finish: Any) -> Callable[..., Any]:
    """A handler whose answer is made where it ran."""
    return lambda *values, **named: finish(target(*values, **named))


def _every(
    first: RequestValidationError, *tries: tuple[Callable[..., Any], tuple[Any, ...]]
) -> RequestValidationError:
    """The mistakes of all parameters, where building one of them found some."""
    errors = []
    for build, values in tries:
        try:
            build(*values)
        except RequestValidationError as error:
            errors.extend(error.errors)
    return RequestValidationError(errors or first.errors)


def _swallowed(handler: str, opened: list[str]) -> Callable[[], RuntimeError]:
    """The error for a dependency that keeps what the handler raised to itself."""
    names = " or ".join(opened)
    return lambda: RuntimeError(
        f"{handler} raised, and the dependency {names} caught it: raise it again after the "
        "clean-up, or raise what is to be answered instead"
    )
