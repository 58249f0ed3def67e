"""What is said when a run ends: how well it went, or how to go on."""

import os
import sys

from labml import logger, tracker
from labml.internal.experiment import experiment_singleton, has_experiment
from labml.logger import Text

from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.distributed.process_group import ranks
from labml_mlm.runs import checkpoint
from labml_mlm.runs.run import Run


def interrupted(conf: MLMConfigs, run: Run) -> str:
    """After a signal."""
    tokens, saved = tracker.get_global_step(), max(checkpoint.folders(run.checkpoints), default=0)
    message = f'Interrupted after {tokens:,} tokens. '
    if saved != tokens:
        error = f' ({conf.saver.error})' if conf.saver.error else ''
        message += f'The last checkpoint is at {saved:,}{error}. ' if saved else f'There is no checkpoint yet{error}. '
    return message + _to_go_on(run)


def last_checkpoint() -> str:
    """After another rank is gone."""
    if has_experiment():
        run = Run(experiment_singleton().run.run_path)
        if not run.path.exists():
            # It is on another machine
            return ''
        if saved := max(checkpoint.folders(run.checkpoints), default=0):
            return f'The last checkpoint is at {saved:,} tokens. {_to_go_on(run)}'
    return 'There is no checkpoint yet'


def log_summary(conf: MLMConfigs):
    """After the last epoch."""
    metrics, progress = conf.valid_metrics, conf.progress
    logger.log('')
    result = [('Training is over', Text.meta)]
    if metrics.loss is not None:
        result = [('Validation loss ', Text.meta), (f'{metrics.loss:.4f}', Text.value),
                  (', masked accuracy ', Text.meta), (f'{metrics.accuracy:.4f}', Text.value)]
    logger.log([*result,
                (f' after {progress.tokens:,} tokens in {progress.seconds / 60:.1f} minutes '
                 f'({conf.throughput.mean:,.0f} tokens/s in training)', Text.meta)])


def script_path() -> str:
    """The script that trains, as it is called from here."""
    return os.path.relpath(sys.argv[0])


def _to_go_on(run: Run) -> str:
    how, size = 'python', ranks().size
    if size > 1:
        is_one_machine = os.environ.get('LOCAL_WORLD_SIZE') == str(size)
        how = f'torchrun --nproc_per_node={size}' if is_one_machine else 'torchrun …'
    return f'To go on: {how} {script_path()} --resume {run.uuid}'

