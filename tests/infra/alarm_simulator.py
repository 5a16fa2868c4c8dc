"""CloudWatch's evaluation of an alarm, as its documents describe it.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/AlarmThatSendsEmail.html, "Configuring
how CloudWatch alarms treat missing data": an alarm on M of N data points looks at an evaluation range
of some more than N; existing points come before missing ones; only where fewer than N exist does the
treatment of missing data count.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

#: Periods beyond N that CloudWatch looks back at.
BEYOND = 2


@dataclass
class Alarm:
    """An alarm of a template with the data points of its metric."""

    properties: Mapping[str, Any]
    points: dict[datetime, list[float]] = field(default_factory=dict)
    """Values by the beginning of their period."""

    @property
    def period(self) -> timedelta:
        return timedelta(seconds=self.properties["Period"])

    def put(self, at: datetime, value: float) -> None:
        """Record a value of the metric."""
        self.points.setdefault(self._floor(at), []).append(value)

    def states(self, begin: datetime, end: datetime) -> Iterator[tuple[datetime, str]]:
        """The state at the end of every period in which it can change."""
        seen = self.properties["EvaluationPeriods"] + BEYOND + 1
        ends = {at + self.period * n for at in self.points for n in range(1, seen + 1)}
        state = "INSUFFICIENT_DATA"
        for moment in sorted({self._floor(begin) + self.period, *ends}):
            if begin <= moment <= end:
                state = self._evaluate(moment, state)
                yield moment, state

    def messages(self, begin: datetime, end: datetime) -> list[tuple[datetime, str]]:
        """What reaches the topic: changes of state that have an action."""
        sent, before = [], "INSUFFICIENT_DATA"
        actions = {"ALARM": "AlarmActions", "INSUFFICIENT_DATA": "InsufficientDataActions"}
        for moment, state in self.states(begin, end):
            if state != before and self.properties.get(actions.get(state, "OKActions")):
                sent.append((moment, state))
            before = state
        return sent

    def _floor(self, at: datetime) -> datetime:
        seconds = self.period.total_seconds()
        return datetime.fromtimestamp(at.timestamp() // seconds * seconds, at.tzinfo)

    def _evaluate(self, moment: datetime, state: str) -> str:
        count = self.properties["EvaluationPeriods"]
        wanted = self.properties.get("DatapointsToAlarm", count)
        treatment = self.properties.get("TreatMissingData", "missing")
        looked_at = [moment - self.period * n for n in range(1, count + BEYOND + 1)]
        existing = [self._breaches(self.points[at]) for at in looked_at if at in self.points][
            :count
        ]
        if not existing and treatment == "missing":
            return "INSUFFICIENT_DATA"
        if not existing and treatment == "ignore":
            return state
        filled = existing + [treatment == "breaching"] * (count - len(existing))
        if treatment in {"missing", "ignore"}:
            filled = existing
        return "ALARM" if sum(filled) >= wanted else "OK"

    def _breaches(self, values: Sequence[float]) -> bool:
        value = {"Sum": sum(values), "Maximum": max(values), "Minimum": min(values)}[
            self.properties["Statistic"]
        ]
        threshold: float = self.properties["Threshold"]
        if self.properties["ComparisonOperator"] == "GreaterThanOrEqualToThreshold":
            return value >= threshold
        assert self.properties["ComparisonOperator"] == "LessThanThreshold"
        return value < threshold
