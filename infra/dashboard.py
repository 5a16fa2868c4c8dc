"""The dashboard: is everything backed up, how fast, how large, and what holds it back."""

from collections.abc import Sequence

from aws_cdk import Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from infra.metrics import Metrics
from infra.settings import Settings

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
        metrics = Metrics(self)

        def by_engine(
            title: str, metric: str, statistic: str, width: int = HALF
        ) -> cloudwatch.IWidget:
            lines = [
                metrics.of_engine(e, metric, statistic, PERIOD).with_(label=e)
                for e in settings.engines
            ]
            return _graph(title, lines, width)

        board = cloudwatch.Dashboard(
            self,
            "Board",
            dashboard_name=Stack.of(self).stack_name,
            default_interval=Duration.days(14),
        )
        board.add_widgets(
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
        board.add_widgets(
            _graph(
                "Size of each source's backup, stored bytes",
                [metrics.of_sources("BackupBytes", "Maximum", DAY)],
            ),
            _graph(
                "Seconds of each source's longest unit",
                [metrics.of_sources("Seconds", "Maximum", PERIOD)],
            ),
        )
        board.add_widgets(
            by_engine("Throughput, MB/s of raw bytes", "Throughput", "Average"),
            by_engine("Raw bytes read", "RawBytes", "Sum"),
        )
        board.add_widgets(
            by_engine("Peak memory, % of the function's", "PeakMemoryPercent", "Maximum"),
            _graph(
                "Errors, memory warnings, unusual sizes",
                [
                    metrics.of_runs("Errors", PERIOD).with_(label="errors of functions"),
                    metrics.of_runs("SizesUnusual", PERIOD).with_(label="sizes out of line"),
                    *(
                        metrics.of_engine(e, "MemoryWarning", "Sum", PERIOD).with_(
                            label=f"{e}: memory over 80 %"
                        )
                        for e in settings.engines
                    ),
                ],
            ),
        )
        board.add_widgets(
            *(
                by_engine(f"Units held back by the {what}", metric, "Sum", FULL // 3)
                for what, metric in zip(("source", "CPU", "network"), BOTTLENECKS, strict=True)
            )
        )
        self.name = board.dashboard_name


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
