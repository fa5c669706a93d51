"""Metrics and spans through the real SDK, over OTLP, to a receiver that decodes them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from tests.servers import redis_server
from tollway import Limiter, Policy, StoreUnavailable, hash_identity
from tollway.observe import opentelemetry


class Receiver:
    """What an OTLP/HTTP collector takes in."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Span] = []
        self.metrics: dict[str, Any] = {}

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            traces = ExportTraceServiceRequest.FromString(body)
            for resource in traces.resource_spans:
                for scope in resource.scope_spans:
                    self.spans += scope.spans
        else:
            metrics = ExportMetricsServiceRequest.FromString(body)
            for found in metrics.resource_metrics:
                for held in found.scope_metrics:
                    self.metrics |= {metric.name: metric for metric in held.metrics}

    def points(self, metric: str, **wanted: str) -> list[float]:
        """The values of a metric whose attributes are these, at least."""
        found = self.metrics[metric]
        data = found.sum if found.HasField("sum") else found.gauge
        return [
            point.as_int or point.as_double
            for point in data.data_points
            if wanted.items() <= attributes(point).items()
        ]


def attributes(holder: Any) -> dict[str, Any]:
    found = {}
    for entry in holder.attributes:
        kind = entry.value.WhichOneof("value")
        value = getattr(entry.value, kind)
        found[entry.key] = (
            [v.string_value for v in value.values] if kind == "array_value" else value
        )
    return found


@contextmanager
def receiving() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.take(self.path, body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def tracing(receiver: Receiver, **options: Any) -> Iterator[TracerProvider]:
    provider = TracerProvider(shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{receiver.url}/v1/traces")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    stop = opentelemetry.start_spans(provider, **options)
    try:
        yield provider
    finally:
        stop()
        provider.shutdown()


async def test_a_span_for_each_remote_check_under_the_callers(name: str) -> None:
    policy = Policy(name, "1/h")
    with receiving() as receiver, redis_server() as redis, Limiter(redis.url) as limiter:
        with tracing(receiver) as provider:
            tracer = provider.get_tracer("app")

            async def one(number: int) -> None:
                with tracer.start_as_current_span(f"request {number}"):
                    await limiter.acheck(policy, "203.0.113.7", 0)

            with tracer.start_as_current_span("sync request"):
                limiter.check(policy, "203.0.113.7")
                # Refused, and repeated without asking: no wait, no span.
                limiter.check(policy, "203.0.113.7")
                limiter.check(policy, "203.0.113.7")
            await asyncio.gather(*(one(number) for number in range(3)))
            Limiter().check(policy, "203.0.113.7")
        limiter.check(policy, "another")

    spans = {span.span_id: span for span in receiver.spans}
    ours = [span for span in receiver.spans if span.name == "tollway.check"]
    assert sorted(attributes(span)["tollway.outcome"] for span in ours) == ["allowed"] * 4 + [
        "refused"
    ]
    parents = [spans[span.parent_span_id] for span in ours]
    assert sorted(parent.name for parent in parents) == [
        *("request 0", "request 1", "request 2"),
        *("sync request", "sync request"),
    ]
    for span, parent in zip(ours, parents, strict=True):
        assert span.kind == Span.SPAN_KIND_CLIENT
        told = attributes(span)
        del told["tollway.outcome"]
        assert told == {"tollway.policy": name, "tollway.store": limiter.url}
        assert parent.start_time_unix_nano <= span.start_time_unix_nano < span.end_time_unix_nano
        assert span.trace_id == parent.trace_id
    assert "203.0.113.7" not in str(receiver.spans)


def test_errors_are_told_and_keys_only_as_hashes(name: str, dead_store: str) -> None:
    policy = Policy(name, "9/h")
    with receiving() as receiver, tracing(receiver, keys="hashed"):
        with Limiter(dead_store, fail_mode="open") as limiter:
            limiter.check(policy, "203.0.113.7")
        with (
            Limiter(dead_store, fail_mode="closed") as limiter,
            pytest.raises(StoreUnavailable),
        ):
            limiter.check(policy, "203.0.113.7")
    answered, failed = receiver.spans
    assert attributes(answered)["tollway.outcome"] == "degraded_allowed"
    assert attributes(failed)["tollway.outcome"] == "failed"
    for span in (answered, failed):
        assert span.status.code == Status.STATUS_CODE_ERROR
        assert dead_store in span.status.message
        assert [event.name for event in span.events] == ["exception"]
        assert attributes(span)["tollway.policy"] == name
        assert attributes(span)["tollway.keys"] == [hash_identity("203.0.113.7")]


def test_metrics_arrive_as_they_were_counted(name: str, dead_store: str) -> None:
    with receiving() as receiver:
        exporter = OTLPMetricExporter(f"{receiver.url}/v1/metrics")
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
        provider = MeterProvider([reader], shutdown_on_exit=False)
        opentelemetry.start_metrics(provider)
        limiter, policy = Limiter(), Policy(name, "3/h")
        for _ in range(10):
            limiter.check(policy, "k")
        with Limiter(dead_store) as remote:
            for _ in range(5):
                remote.check(policy, "k")
            # Exports for the last time, while the store is still there to be asked.
            provider.shutdown()
            store = remote.url
    checks = receiver.metrics["tollway.checks"]
    assert checks.sum.is_monotonic
    assert receiver.points("tollway.checks", policy=name, outcome="allowed") == [3]
    assert receiver.points("tollway.checks", policy=name, outcome="refused") == [7]
    assert receiver.points("tollway.breaker.state", store=store) == [2]
    [calls] = receiver.points("tollway.store.calls", store=store)
    [skipped] = receiver.points("tollway.store.skipped", store=store)
    assert calls >= 1 and calls + skipped == 5
    assert sum(receiver.points("tollway.store.errors", store=store)) == calls
    [seconds] = receiver.points("tollway.store.time", store=store)
    assert 0 < seconds < 60
    assert receiver.metrics["tollway.store.time"].unit == "s"
