"""Figures of the service for Prometheus, and the same as a table for people.

Stages are those of `_DESCRIPTIONS`. Each service has a registry of its own. With several processes, prometheus_client
joins them through PROMETHEUS_MULTIPROC_DIR. Entry point: `Metrics`.
"""

from __future__ import annotations

import os
from typing import Any

from babelclip.errors import require

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_DESCRIPTIONS = {
    "queue_wait": "wait of a query for the text encoder",
    "encode_text": "text encoder, a batch",
    "encode_image": "picture encoder",
    "decode": "decoding and preparing a picture that was sent",
    "fetch": "fetching a picture from the web",
    "spread": "how unrelated queries score",
    "language": "telling the language of a query, beside the encoder",
    "search": "search in the collection",
    "rows": "reading captions, metadata and addresses of results",
    "thumbnail": "reading a thumbnail or making a picture",
    "write": "changing a collection",
    "request": "a whole request",
}


class Metrics:
    """Histograms by stage, requests by route and status."""

    def __init__(self) -> None:
        prometheus = require("prometheus_client", "search")
        self._prometheus = prometheus
        self._many = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._registry = prometheus.CollectorRegistry()
        self._stages = prometheus.Histogram(
            "babelclip_stage_seconds", "Seconds by stage", ["stage"], buckets=_BUCKETS, registry=self._registry
        )
        self._batches = prometheus.Histogram(
            "babelclip_batch_size", "Queries of a batch", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self._registry
        )
        self._remembered = prometheus.Counter(
            "babelclip_remembered", "Queries whose vector was kept", registry=self._registry
        )
        self._requests = prometheus.Counter(
            "babelclip_requests", "Requests", ["route", "status"], registry=self._registry
        )
        self._known: dict[str, Any] = {}
        if not self._many:
            prometheus.ProcessCollector(registry=self._registry)
            prometheus.PlatformCollector(registry=self._registry)

    def observe(self, stage: str, value: float) -> None:
        """Takes the seconds of a stage, the size of a batch, or a query that was remembered."""
        if stage == "batch_size":
            self._batches.observe(value)
        elif stage == "remembered":
            self._remembered.inc(value)
        else:
            self._stage(stage).observe(value)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Takes a finished request of a route, whose path names its parts (`/v1/collections/{name}`)."""
        self._requests.labels(route, str(status)).inc()
        self._stage("request").observe(seconds)

    def _stage(self, stage: str) -> Any:
        """Returns the histogram of a stage; looking it up by its label takes as long as counting."""
        known = self._known.get(stage)
        if known is None:
            known = self._known[stage] = self._stages.labels(stage)
        return known

    def text(self) -> tuple[bytes, str]:
        """Returns the figures as Prometheus reads them, and the type of that text."""
        return self._prometheus.generate_latest(self._read()), self._prometheus.CONTENT_TYPE_LATEST

    def summary(self) -> str:
        """Returns a table: stage, what it is, calls, mean, share of the time of requests."""
        counts: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for family in self._read().collect():
            for sample in family.samples:
                if sample.name == "babelclip_stage_seconds_count":
                    counts[sample.labels["stage"]] = sample.value
                elif sample.name == "babelclip_stage_seconds_sum":
                    seconds[sample.labels["stage"]] = sample.value
        whole = seconds.get("request", 0.0) or 1.0
        lines = [f"{'name':14s} {'description':55s} {'calls':>10s} {'average':>12s} {'proportion':>11s}"]
        for stage, description in _DESCRIPTIONS.items():
            calls, spent = counts.get(stage, 0.0), seconds.get(stage, 0.0)
            mean = f"{spent / calls:.6f}s" if calls else "-"
            lines.append(f"{stage:14s} {description:55s} {int(calls):10d} {mean:>12s} {spent / whole:10.1%}")
        return "\n".join(lines) + "\n"

    def _read(self) -> Any:
        if not self._many:
            return self._registry
        from prometheus_client import multiprocess

        joined = self._prometheus.CollectorRegistry()
        multiprocess.MultiProcessCollector(joined)  # type: ignore[no-untyped-call]
        return joined
