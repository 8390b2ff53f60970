"""One thing that was looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """What was found about one topic.

    Attributes:
        topic: for example "torchvision".
        state: "ok"; "note" where something works but could be better, or is only needed for some jobs; "problem" where
            babelclip will fail or be wrong.
        found: what is there, as a sentence without a full stop.
        advice: what to do, where the state is not "ok".
        facts: the same for programs.
    """

    topic: str
    state: State
    found: str
    advice: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def as_data(findings: list[Finding]) -> dict[str, Any]:
    """Returns findings as JSON has them: `ok` is false where there is a problem."""
    rows = [
        {"topic": f.topic, "state": f.state, "found": f.found, "advice": f.advice, "facts": dict(f.facts)}
        for f in findings
    ]
    return {"ok": not any(finding.state == "problem" for finding in findings), "findings": rows}
