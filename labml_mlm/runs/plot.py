"""
# Curves of runs as an image

Loss and accuracy by training tokens, masked accuracy of a pre-training run: every validation, also those on old text,
means of the training steps, which are many and noisy, and lines at what guesses without a model reach.
"""
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.common.files import open_atomically
from labml_mlm.runs import log_lines
from labml_mlm.runs.log_lines import Skipped
from labml_mlm.runs.metrics_log import read_curves
from labml_mlm.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = {'loss': 'loss, nats per masked token', 'accuracy': 'masked accuracy'}
_FINE_TUNED = {'loss': 'loss', 'accuracy': 'accuracy of labels'}
# Means along a training curve
_POINTS = 100

Curve = list[tuple[int, float]]


def draw(runs: Sequence[Run], path: Path) -> Skipped:
    """
    Draws the curves of runs into an image, as a whole or not at all. Returns how many damaged lines were skipped.

    * `path` is the image; its suffix sets the format, such as `.png` or `.svg`

    Raises `UserError` without matplotlib, for an unknown format or folder, and for a run without such metrics.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise UserError(f"labml-mlm plot needs matplotlib ({e}): pip install 'labml_mlm[plot]'") from None
    if not path.parent.is_dir():
        raise UserError(f'{path}: there is no folder {path.parent}')
    figure = Figure(figsize=(10, 4), layout='constrained')
    kinds = FigureCanvasAgg(figure).get_supported_filetypes()
    kind = path.suffix.removeprefix('.').lower()
    if kind not in kinds:
        raise UserError(f'{path}: an image must end in {", ".join(f".{known}" for known in sorted(kinds))}.'
                        f'{did_you_mean(kind, kinds)}')
    names = [f'{panel}.{part}' for panel in _PANELS for part in ('train', 'valid', 'old')]
    skipped = Skipped()
    curves = {run.uuid: read_curves(run.log, names, skipped=skipped) for run in runs}
    for run in runs:
        if not any(curves[run.uuid].values()):
            raise UserError(f'the run {run.uuid} has neither loss nor accuracy in {run.log}'
                            + (f': {log_lines.skipped(n, run.log)}' if (n := skipped[run.log]) else ''))
    labels = _FINE_TUNED if any(run.is_fine_tuned for run in runs) else _PANELS
    # Numbers have no accuracy
    labels = {panel: label for panel, label in labels.items()
              if any(curves[run.uuid][f'{panel}.{part}'] for run in runs for part in ('train', 'valid'))}
    for axes, (panel, label) in zip(figure.subplots(1, len(labels), squeeze=False)[0], labels.items(), strict=True):
        for i, run in enumerate(runs):
            train, valid, old = (curves[run.uuid][f'{panel}.{part}'] for part in ('train', 'valid', 'old'))
            axes.plot(*_columns(bin_means(train, n=_POINTS)), color=f'C{i}', alpha=0.4, linewidth=1)
            axes.plot(*_columns(valid), color=f'C{i}', marker='o', markersize=4,
                      label=f'{run.experiment} {run.uuid[:8]}')
            if old:
                axes.plot(*_columns(old), color=f'C{i}', marker='s', markersize=4, linestyle='--')
        axes.set(xlabel='training tokens', ylabel=label)
        _draw_baselines(axes, runs, panel)
        axes.grid(alpha=0.3)
        has_old = any(curves[run.uuid][f'{panel}.old'] for run in runs)
        axes.legend(title='● validation, – training' + ', ■ old text' * has_old)
    with open_atomically(path) as f:
        figure.savefig(f, format=kind, dpi=150)
    return skipped


def _draw_baselines(axes: 'Axes', runs: Sequence[Run], panel: str):
    """Lines of guesses without a model, with their names; of runs on the same text, once."""
    lines = dict.fromkeys((name, figures[panel]) for run in runs for name, figures in run.baselines.items())
    for name, value in lines:
        axes.axhline(value, color='grey', linestyle=':', linewidth=1)
        axes.annotate(name, (1, value), xycoords=('axes fraction', 'data'), ha='right', va='bottom', fontsize=7,
                      color='grey')


def bin_means(curve: Curve, *, n: int) -> Curve:
    """A curve as at most `n` means of neighbouring points, each at the step of its last point."""
    size = -(-len(curve) // n) or 1
    parts = [curve[i:i + size] for i in range(0, len(curve), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _columns(curve: Curve) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]
