"""
# What a report has of a run

All of it is read from the run's folder, also while it trains. Lines that cannot be read are left out, and counted.
"""
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from labml_mlm.run_commands.facts import describe
from labml_mlm.runs.log_lines import Skipped
from labml_mlm.runs.metrics_log import read_tracks
from labml_mlm.runs.plot import Curve
from labml_mlm.runs.run import Run
from labml_mlm.runs.samples_log import ValidationSamples

# Indicators that are the same all along: what the loss or the accuracy is compared with
_BASELINE = 'baseline.'
# Characters of the name of an option
_MAX_NAME = 64


class RunData(NamedTuple):
    """A run for a report."""
    # As `labml-mlm info` has them
    facts: Mapping[str, Any]
    # All items, as given or by default
    items: Mapping[str, Any]
    comment: str
    tags: list[str]
    # By ascending step, by indicator
    curves: Mapping[str, Curve]
    samples: list[ValidationSamples]
    # Lines of metrics and of samples that cannot be read
    n_damaged: int
    n_damaged_samples: int

    def baselines(self, panel: str) -> dict[str, float]:
        """The last values of the indicators that `loss` or `accuracy` is compared with, by the rest of their names."""
        found = {name.removeprefix(_BASELINE): curve[-1][1] for name, curve in self.curves.items()
                 if name.startswith(_BASELINE) and math.isfinite(curve[-1][1])}
        return {name.removesuffix('.accuracy'): value for name, value in found.items()
                if name.endswith('.accuracy') == (panel == 'accuracy')}


def gather(run: Run) -> RunData:
    """Reads a run. Raises what `describe` does."""
    skipped = Skipped()
    facts, snapshot = describe(run), run.snapshot
    curves = _read_log(run.log, skipped)
    (samples, n_damaged_samples), items = run.samples.read_counted(), {**snapshot['defaults'], **snapshot['given']}
    if source := snapshot['text'].get('source'):
        # A run that was resumed has the option in place of `auto`
        items['text'] = source
    return RunData(facts, _without_text(items), run.comment, run.tags, curves,
                   samples, skipped[run.log], n_damaged_samples)


def _without_text(items: dict[str, Any]) -> dict[str, Any]:
    """Items that others may read: a text that was given in Python is none of them."""
    text = items.get('text')
    is_name = not isinstance(text, str) or len(text) <= _MAX_NAME and len(text.split()) == 1
    return items if is_name else items | {'text': f'a text of {len(text):,} characters'}


def _read_log(path: Path, skipped: Skipped) -> dict[str, Curve]:
    """All curves of a metrics log. `skipped` counts damaged lines."""
    curves: dict[str, Curve] = {}
    for track in read_tracks(path, skipped):
        for name, pairs in track.items():
            curves.setdefault(name, []).extend((step, sum(values) / len(values)) for step, values in pairs)
    return {name: sorted(curve) for name, curve in curves.items()}
