"""
# Curves of runs as an image

Loss and masked accuracy by training tokens: of validations, which are few, each; of training steps, which are many
and noisy, means.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.runs import metrics_log as log_file
from labml_mlm.runs.run import Run

_PANELS = {'loss': 'loss, nats a masked token', 'accuracy': 'masked accuracy'}
# Means along a curve of training
_POINTS = 100

Curve = list[tuple[int, float]]


def draw(runs: Sequence[Run], path: Path):
    """
    Draws the curves of runs, and writes that as a whole or not at all.

    * `path` is an image; what kind of one its ending says, as `.png` or `.svg`

    Raises `UserError` without matplotlib, for an ending or a folder that it does not know, and for a run without such
    metrics.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise UserError(f"labml-mlm plot takes matplotlib ({e}): pip install 'labml_mlm[plot]'") from None
    if not path.parent.is_dir():
        raise UserError(f'{path}: there is no folder {path.parent}')
    figure = Figure(figsize=(10, 4), layout='constrained')
    kinds = FigureCanvasAgg(figure).get_supported_filetypes()
    kind = path.suffix.removeprefix('.').lower()
    if kind not in kinds:
        raise UserError(f'{path}: an image can be {", ".join(f".{known}" for known in sorted(kinds))}.'
                        f'{did_you_mean(kind, kinds)}')
    names = [f'{panel}.{part}' for panel in _PANELS for part in ('train', 'valid')]
    curves = {run.uuid: log_file.curves(run.log, names) for run in runs}
    for run in runs:
        if not any(curves[run.uuid].values()):
            raise UserError(f'the run {run.uuid} has neither loss nor accuracy in {run.log}')
    for axes, (panel, label) in zip(figure.subplots(1, 2), _PANELS.items(), strict=True):
        for i, run in enumerate(runs):
            train, valid = (curves[run.uuid][f'{panel}.{part}'] for part in ('train', 'valid'))
            axes.plot(*_columns(means(train, n=_POINTS)), color=f'C{i}', alpha=0.4, linewidth=1)
            axes.plot(*_columns(valid), color=f'C{i}', marker='o', markersize=4,
                      label=f'{run.experiment} {run.uuid[:8]}')
        axes.set(xlabel='training tokens', ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(title='● validation, – training')
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        figure.savefig(temporary, format=kind, dpi=150)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def means(curve: Curve, *, n: int) -> Curve:
    """A curve as `n` means of neighbours at the most, each at its last step."""
    size = -(-len(curve) // n) or 1
    parts = [curve[i:i + size] for i in range(0, len(curve), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _columns(curve: Curve) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]

