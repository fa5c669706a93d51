"""What it costs a check that somebody looks: nobody, each observer, and a function of one's own."""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from bench import checks
from bench.http_load import HOST
from bench.progress import Progress
from bench.redis_server import redis_server
from bench.results import Measuring, Section
from tollway import Decision, Limiter, Policy, observe
from tollway.observe import Call, logs, opentelemetry, prometheus

ROUND_TRIPS = 3_000
Observed = Callable[[], AbstractContextManager[object]]


class Away(SpanExporter):
    """Where spans are sent to is not measured."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


@contextmanager
def counted(begin: Callable[[], object] = observe.start) -> Iterator[None]:
    begin()
    try:
        yield
    finally:
        observe.stop()


@contextmanager
def logged() -> Iterator[None]:
    beat = logs.start(every=1.0)
    try:
        yield
    finally:
        beat.stop()
        observe.stop()


@contextmanager
def traced(provider: TracerProvider) -> Iterator[None]:
    stop = opentelemetry.start_spans(provider)
    try:
        yield
    finally:
        stop()


@contextmanager
def called() -> Iterator[None]:
    def on_decision(decision: Decision, call: Call) -> None:
        pass

    remove = observe.add(on_decision)
    try:
        yield
    finally:
        remove()


def observers(stack: ExitStack) -> dict[str, Observed]:
    """Nobody, then each of those who may look."""
    meters, tracers = MeterProvider([InMemoryMetricReader()]), TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(Away()))
    stack.callback(meters.shutdown)
    stack.callback(tracers.shutdown)
    opentelemetry.start_metrics(meters)
    observe.stop()
    return {
        "nobody": nullcontext,
        "Prometheus": lambda: counted(prometheus.text),
        "OpenTelemetry metrics": counted,
        "logs": logged,
        "OpenTelemetry spans": lambda: traced(tracers),
        "on_decision": called,
    }


def measure(rounds: int, progress: Progress) -> Section:
    measuring = Measuring(Section("A check that is observed", "ns"), rounds, progress)
    policy = Policy("observed", f"{checks.PER_MINUTE}/m")
    with ExitStack() as stack:
        looking = observers(stack)

        def in_memory(observed: Observed) -> Callable[[], float]:
            limiter = Limiter("memory://")

            def once() -> float:
                with observed():
                    return checks.timed(limiter.check, policy, checks.keys(1))

            once()
            return once

        measuring.case("in memory", {who: in_memory(how) for who, how in looking.items()})
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = f"redis://{HOST}:{stack.enter_context(redis_server(folder))}"
        limiter = stack.enter_context(Limiter(url, near_cache=0, command_timeout=1))

        def over_redis(observed: Observed) -> Callable[[], float]:
            def once() -> float:
                with observed():
                    began = time.process_time_ns()
                    for key in itertools.islice(checks.keys(1_000), ROUND_TRIPS):
                        limiter.check(policy, key)
                    return (time.process_time_ns() - began) / ROUND_TRIPS

            return once

        measuring.case("over Redis", {who: over_redis(how) for who, how in looking.items()})
    return measuring.section
