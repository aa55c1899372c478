"""What a person and a pipe see of a run: bars, log lines, JSON lines, the summary.

Consumers of events and nothing else. A run is given one `Report`, made by `choose`.
"""

from fetcher.report.choice import Console, Report, Wishes, choose
from fetcher.report.summary import Collector, Tally, render

__all__ = ["Collector", "Console", "Report", "Tally", "Wishes", "choose", "render"]
