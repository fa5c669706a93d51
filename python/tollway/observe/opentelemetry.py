"""The numbers of :mod:`tollway.observe` for OpenTelemetry, and a span for each remote check.

    from tollway.observe import opentelemetry

    opentelemetry.start_metrics()
    opentelemetry.start_spans()

Needs ``opentelemetry-api``; what is exported where is the SDK's affair. Without an argument the
global providers are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider, get_tracer

from tollway import Decision, __version__, hash_identity, observe
from tollway.observe import Call, StoreNumbers

__all__ = ["start_metrics", "start_spans"]

_BREAKER = {"closed": 0, "half_open": 1, "open": 2}


def start_metrics(meter_provider: MeterProvider | None = None) -> None:
    """Count checks and tell the counts whenever they are collected: nothing is added to a check.

    The instruments are ``tollway.checks`` by policy and outcome, and by store
    ``tollway.store.calls``, ``tollway.store.time``, ``tollway.store.errors`` (and kind),
    ``tollway.store.skipped``, ``tollway.store.waiting`` and ``tollway.breaker.state``.
    """
    observe.start()
    meter = get_meter("tollway", __version__, meter_provider)

    def checks(_: CallbackOptions) -> Iterable[Observation]:
        for policy, counts in observe.checks().items():
            for outcome, count in counts.items():
                yield Observation(count, {"policy": policy, "outcome": outcome})

    def errors(_: CallbackOptions) -> Iterable[Observation]:
        for store in observe.stores():
            for kind, count in store["errors"].items():
                yield Observation(count, {"store": store["store"], "kind": kind})

    def each(
        value: Callable[[StoreNumbers], float],
    ) -> list[Callable[[CallbackOptions], Iterable[Observation]]]:
        def observed(_: CallbackOptions) -> Iterable[Observation]:
            for store in observe.stores():
                yield Observation(value(store), {"store": store["store"]})

        return [observed]

    def state(store: StoreNumbers) -> int:
        return _BREAKER[store["breaker"] or "closed"]

    counter, gauge = meter.create_observable_counter, meter.create_observable_gauge
    counter("tollway.checks", [checks], "{check}", "Checks by policy and outcome")
    counter("tollway.store.calls", each(lambda s: s["calls"]), "{call}", "Calls to a store")
    counter("tollway.store.time", each(lambda s: s["seconds"]), "s", "How long they took together")
    counter("tollway.store.errors", [errors], "{error}", "Calls that failed, by kind")
    counter(
        *("tollway.store.skipped", each(lambda s: s["skipped"]), "{call}"),
        "Calls that were not made because the breaker was open",
    )
    gauge("tollway.store.waiting", each(lambda s: s["waiting"]), "{call}", "Calls that wait")
    gauge("tollway.breaker.state", each(state), "", "0 closed, 1 half open, 2 open")


def start_spans(
    tracer_provider: TracerProvider | None = None, *, keys: Literal["hashed"] | None = None
) -> Callable[[], None]:
    """Trace every check that waits for a backend, as a child of the caller's span.

    A span ``tollway.check`` (or ``.acquire``, ``.reserve``, ``.hold``) tells ``tollway.policy``,
    ``tollway.outcome`` and ``tollway.store``; an error that the fail mode answered is its
    exception. Keys are not told, or as hashes with ``keys="hashed"``. Call what is returned to
    stop.
    """
    tracer = get_tracer("tollway", __version__, tracer_provider)

    def trace(call: Call, outcome: str, policy: str, error: BaseException | None) -> None:
        attributes: dict[str, str | tuple[str, ...]] = {
            "tollway.policy": policy,
            "tollway.outcome": outcome,
            "tollway.store": call.backend,
        }
        if keys is not None:
            attributes["tollway.keys"] = tuple(hash_identity(key) for key in call.keys)
        began = call.began_ns
        name = f"tollway.{call.operation}"
        span = tracer.start_span(
            name, kind=SpanKind.CLIENT, attributes=attributes, start_time=began
        )
        if error is not None:
            span.record_exception(error)
            span.set_status(Status(StatusCode.ERROR, str(error)))
        span.end(began + int(call.seconds * 1e9))

    def decided(decision: Decision, call: Call) -> None:
        trace(call, decision.outcome, decision.policy, call.error)

    def failed(error: BaseException, call: Call) -> None:
        if not call.answered:
            trace(call, "failed", ",".join(call.policies), error)

    return observe.add(decided, failed, only_waits=True)
