"""Throughput: what is measured, how, and what it says."""

from resnet_xf.bench.case import MODES, OURS, PEERS, Case, cases
from resnet_xf.bench.harness import bench, best_batch
from resnet_xf.bench.report import BenchReport, Change, Comparison, Result, Row, compare
from resnet_xf.bench.statistics import Ratio, Speed

__all__ = [
    "MODES",
    "OURS",
    "PEERS",
    "BenchReport",
    "Case",
    "Change",
    "Comparison",
    "Ratio",
    "Result",
    "Row",
    "Speed",
    "bench",
    "best_batch",
    "cases",
    "compare",
]
