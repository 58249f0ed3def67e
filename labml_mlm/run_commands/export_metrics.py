"""
# `labml-mlm export-metrics`
"""
import argparse

from labml_mlm.common.project import logs_path
from labml_mlm.runs.log_lines import Skipped, say_skipped
from labml_mlm.runs.run import find_run


def export_metrics(parsed: argparse.Namespace):
    """The metrics of runs as a file."""
    from labml_mlm.runs import curves

    logs = logs_path(parsed.path)
    runs = {run.uuid: run for run, _ in (find_run(logs, name) for name in parsed.run)}
    skipped = Skipped()
    n = curves.export_metrics(list(runs.values()), parsed.output, skipped=skipped)
    say_skipped(skipped)
    if parsed.output != curves.STDOUT:
        print(f'{parsed.output} has {n:,} values of {", ".join(runs)}')
