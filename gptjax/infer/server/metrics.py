"""Metrics of a server in Prometheus' text format 0.0.4."""

import bisect
import collections
import threading
from collections.abc import Mapping

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Upper limits in seconds."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts of durations up to each of BUCKETS."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Add one duration."""
        self.counts[bisect.bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    def lines(self, name: str) -> list[str]:
        """Its samples."""
        found, total = [], 0
        for limit, count in zip((*BUCKETS, "+Inf"), self.counts, strict=True):
            total += count
            found.append(f'{name}_bucket{{le="{limit}"}} {total}')
        return [*found, f"{name}_sum {self.sum:.6f}", f"{name}_count {total}"]


class Metrics:
    """What a server counts; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: collections.Counter[tuple[str, int]] = collections.Counter()
        self._tokens = collections.Counter(prompt=0, generated=0)
        self._seconds = {name: Histogram() for name in HISTOGRAMS}

    def request(self, endpoint: str, status: int) -> None:
        """One request that was replied to."""
        with self._lock:
            self._requests[endpoint, status] += 1

    def tokens(self, kind: str, count: int) -> None:
        """Tokens of a "prompt", or "generated"."""
        with self._lock:
            self._tokens[kind] += count

    def seconds(self, name: str, seconds: float) -> None:
        """A duration of one of HISTOGRAMS."""
        with self._lock:
            self._seconds[name].observe(seconds)

    def mean_seconds(self, name: str, default: float) -> float:
        """The mean of a histogram."""
        with self._lock:
            one = self._seconds[name]
            return one.sum / sum(one.counts) if sum(one.counts) else default

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """All of them, and gauges as name: (help, value)."""
        with self._lock:
            lines = _head("gptjax_requests_total", "Requests by endpoint and status.", "counter")
            for (endpoint, status), count in sorted(self._requests.items()):
                labels = f'endpoint="{endpoint}",status="{status}"'
                lines.append(f"gptjax_requests_total{{{labels}}} {count}")
            for kind, count in self._tokens.items():
                name = f"gptjax_{kind}_tokens_total"
                lines += [*_head(name, f"Tokens, {kind}.", "counter"), f"{name} {count}"]
            for short, words in HISTOGRAMS.items():
                name = f"gptjax_{short}_seconds"
                lines += [*_head(name, words, "histogram"), *self._seconds[short].lines(name)]
        for short, (words, value) in gauges.items():
            name = f"gptjax_{short}"
            lines += [*_head(name, words, "gauge"), f"{name} {value:g}"]
        return "\n".join(lines) + "\n"


HISTOGRAMS = {
    "first_token": "Seconds from a request to its first token.",
    "between_tokens": "Seconds between tokens of an answer, those of one turn sharing its time.",
    "request": "Seconds from a request to its last token.",
}


def _head(name: str, words: str, kind: str) -> list[str]:
    return [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]
