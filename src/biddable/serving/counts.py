"""What /metrics tells, as Prometheus reads it; counted in the server's loop alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

HELP = {
    "biddable_requests_total": "counter Requests that were answered, by model and HTTP status.",
    "biddable_prompt_tokens_total": "counter Tokens of the prompts.",
    "biddable_completion_tokens_total": "counter Tokens that the models wrote.",
    "biddable_request_seconds_sum": "counter Seconds from request to end of answer, added up.",
    "biddable_first_token_seconds_sum": "counter Seconds from request to first text, added up.",
    "biddable_first_token_seconds_count": "counter Answers whose first text was counted.",
    "biddable_running": "gauge Answers that are being written.",
    "biddable_waiting": "gauge Requests that wait for a row.",
}


class Counts:
    """Numbers by name and labels."""

    def __init__(self) -> None:
        self._values: Counter[tuple[str, str]] = Counter()

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Adds to a number."""
        self._values[name, _written(labels)] += value  # type: ignore[assignment]

    def text(self, gauges: Mapping[str, float]) -> str:
        """All numbers in Prometheus' text format."""
        lines = []
        values: dict[tuple[str, str], float] = {
            **self._values,
            **{(n, ""): v for n, v in gauges.items()},
        }
        for name, about in HELP.items():
            kind, _, text = about.partition(" ")
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            lines += [f"{n}{labels} {v:.10g}" for (n, labels), v in values.items() if n == name]
        return "\n".join(lines) + "\n"


def _written(labels: Mapping[str, str]) -> str:
    escaped = (
        (name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"))
        for name, value in labels.items()
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"
