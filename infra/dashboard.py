"""The dashboard: is everything backed up, how fast, how large, and what holds it back."""

from collections.abc import Sequence

from aws_cdk import Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra import metrics
from infra.settings import Place, Settings

HALF, FULL, TALL = 12, 24, 6
PERIOD = Duration.hours(1)
DAY = Duration.days(1)
BOTTLENECKS = ("BottleneckSource", "BottleneckCpu", "BottleneckNetwork")


class Dashboard(Construct):
    """One page: runs, throughput, sizes, memory, bottlenecks."""

    def __init__(
        self, scope: Construct, name: str, settings: Settings, backup: sfn.StateMachine
    ) -> None:
        super().__init__(scope, name)
        self._sources: Sequence[Place] = settings.sources
        made = cloudwatch.Dashboard(
            self,
            "Board",
            dashboard_name=Stack.of(self).stack_name,
            default_interval=Duration.days(14),
        )
        made.add_widgets(
            _graph(
                "Runs",
                [
                    backup.metric_started(period=PERIOD, label="started"),
                    backup.metric_succeeded(period=PERIOD, label="green"),
                    backup.metric_failed(period=PERIOD, label="red"),
                ],
            ),
            _graph(
                "Sources per run",
                [
                    metrics.of_runs("SourcesSealed", PERIOD).with_(label="sealed"),
                    metrics.of_runs("SourcesFailed", PERIOD).with_(label="failed"),
                ],
            ),
        )
        made.add_widgets(
            self._per_source("Throughput, MB/s of raw bytes", "Throughput", "Average"),
            self._per_source("Seconds per unit, longest", "Seconds", "Maximum"),
        )
        made.add_widgets(
            self._per_source("Raw bytes read per day", "RawBytes", "Sum", DAY),
            self._per_source("Size of a backup, stored bytes", "BackupBytes", "Maximum", DAY),
        )
        made.add_widgets(
            self._per_source("Peak memory, % of the function's", "PeakMemoryPercent", "Maximum"),
            _graph(
                "Errors and memory warnings",
                [
                    metrics.of_runs("Errors", PERIOD).with_(label="errors of functions"),
                    *self._lines("MemoryWarning", "Sum", PERIOD, " over 80 %"),
                ],
            ),
        )
        made.add_widgets(
            *(
                self._per_source(f"Units held back by the {what}", metric, "Sum", width=FULL // 3)
                for what, metric in zip(("source", "CPU", "network"), BOTTLENECKS, strict=True)
            )
        )
        self.name = made.dashboard_name

    def _per_source(
        self,
        title: str,
        metric: str,
        statistic: str,
        period: Duration = PERIOD,
        width: int = HALF,
    ) -> cloudwatch.GraphWidget:
        return _graph(title, self._lines(metric, statistic, period), width)

    def _lines(
        self, metric: str, statistic: str, period: Duration, suffix: str = ""
    ) -> list[cloudwatch.IMetric]:
        return [
            metrics.of_source(s, metric, statistic, period).with_(label=s.name + suffix)
            for s in self._sources
        ]


def _graph(
    title: str, lines: Sequence[cloudwatch.IMetric], width: int = HALF
) -> cloudwatch.GraphWidget:
    return cloudwatch.GraphWidget(
        title=title,
        left=list(lines),
        width=width,
        height=TALL,
        left_y_axis=cloudwatch.YAxisProps(min=0, show_units=False),
    )
