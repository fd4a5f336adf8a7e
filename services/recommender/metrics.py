"""What a service counts, for Prometheus; right with several workers, which add up through files."""

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

__all__ = ["MULTIPROCESS_VARIABLE", "Metrics"]

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the folder through which workers add up; set before this module is imported."""

_LATENCY_BUCKETS_S = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip
_SIZE_BUCKETS_BYTES = (256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304)
_GATHER_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one worker."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

        def counter(name: str, text: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(name, text, labels, registry=self._registry)

        self.requests = counter("rgals_http_requests_total", "Answered requests.", ("route", "method", "status"))
        self.latency = Histogram(
            "rgals_http_request_seconds",
            "Seconds from a request's headers to the end of its answer.",
            ("route", "method"),
            buckets=_LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self.response_bytes = Histogram(
            "rgals_http_response_bytes",
            "Bytes of an answer's body.",
            ("route", "method"),
            buckets=_SIZE_BUCKETS_BYTES,
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "rgals_http_requests_in_flight",
            "Requests that are not answered yet.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self.lists = counter("rgals_lists_total", "Ranked lists, by what ranked them.", ("source",))
        self.unknown_users = counter("rgals_unknown_users_total", "Requests for users whom the model does not hold.")
        self.unknown_items = counter("rgals_unknown_items_total", "Items in requests that the model does not hold.")
        self.rejected = counter(
            "rgals_rejected_total", "Requests that were not computed: queue full, or too late.", ("reason",)
        )
        self.gathered = Histogram(
            "rgals_gathered_requests",
            "Requests that were ranked in one product.",
            buckets=_GATHER_BUCKETS,
            registry=self._registry,
        )
        self.reloads = counter("rgals_model_reloads_total", "Models that were tried.", ("outcome",))
        self.serving = Gauge(
            "rgals_model_serving_workers",
            "Workers that serve a version.",
            ("version",),
            registry=self._registry,
            multiprocess_mode="livesum",
        )

    def render(self) -> tuple[bytes, str]:
        """Give all numbers as text, those of the other workers included, and its media type."""
        registry = self._registry
        if MULTIPROCESS_VARIABLE in os.environ:
            _forget_the_dead(Path(os.environ[MULTIPROCESS_VARIABLE]))
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST


def _forget_the_dead(folder: Path) -> None:
    """Take what a killed worker said of its present out of the sums; what it counted stays."""
    for path in folder.glob("gauge_live*_*.db"):
        pid = int(path.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
