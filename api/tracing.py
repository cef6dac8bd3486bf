"""Traces of requests for OpenTelemetry, with `recsys[traces]` and RECSYS_TRACES=true.

A span has the template of the path, the status, and the ids of the request and of the key: never the id of a user. The
SDK reads its own settings, such as OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_TRACES_SAMPLER.
"""

import threading
import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

import recsys

CLOSE_SECONDS = 2.0
"""How long a server that stops waits for a collector that takes the last spans."""


class Tracer:
    """Makes a span of each request, and sends them in a thread of its own: requests never wait for the collector."""

    def __init__(self) -> None:
        names = {"service.name": "recsys", "service.version": recsys.__version__}
        # The settings of the environment come first.
        resource = Resource(names).merge(Resource.create({}))
        if resource.attributes.get("service.name", "").startswith("unknown_service"):  # type: ignore[union-attr]
            resource = resource.merge(Resource(names))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("recsys", recsys.__version__)
        self._contexts = TraceContextTextMapPropagator()

    def record(self, scope: Scope, method: str, route: str, status: int, seconds: float) -> None:
        """Record a request that was answered just now, below the span of the client that `traceparent` names.

        Args:
            route: template of the path.
        """
        sent = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        ended = time.time_ns()
        span = self._tracer.start_span(
            f"{method} {route}",
            context=self._contexts.extract(sent),
            kind=SpanKind.SERVER,
            start_time=ended - round(seconds * 1e9),
        )
        if span.is_recording():
            span.set_attributes(
                {
                    "http.request.method": method,
                    "http.route": route,
                    "http.response.status_code": status,
                    "recsys.request_id": scope["request_id"].decode(),
                }
            )
            if "key" in scope:
                span.set_attribute("recsys.key", scope["key"])
            if status >= 500:
                span.set_status(Status(StatusCode.ERROR))
        span.end(ended)

    def close(self) -> None:
        """Send the last spans; give up on a collector that does not take them within `CLOSE_SECONDS`."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
