"""Messages at the end of a run: its result, or how to resume it."""
import os
import sys

from labml import logger, tracker
from labml.internal.experiment import experiment_singleton, has_experiment
from labml.logger import Text

from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.distributed.process_group import ranks
from labml_mlm.runs.run import Run


def interrupted(conf: MLMConfigs, run: Run) -> str:
    """After a signal."""
    tokens, saved = tracker.get_global_step(), max(run.checkpoints.steps(), default=0)
    message = f'Interrupted after {tokens:,} tokens. '
    if saved != tokens:
        error = f' ({conf.checkpointer.error})' if conf.checkpointer.error else ''
        message += f'The last checkpoint is at {saved:,}{error}. ' if saved else f'There is no checkpoint yet{error}. '
    return message + _how_to_resume(run)


def after_rank_failure() -> str:
    """After another rank failed."""
    if has_experiment():
        run = Run(experiment_singleton().run.run_path)
        if not run.path.exists():
            # It is on another machine
            return ''
        if saved := max(run.checkpoints.steps(), default=0):
            return f'The last checkpoint is at {saved:,} tokens. {_how_to_resume(run)}'
    return 'There is no checkpoint yet'


def log_summary(conf: MLMConfigs):
    """After the last epoch."""
    metrics, progress = conf.valid_metrics, conf.progress
    logger.log('')
    result = [('Training is complete', Text.meta)]
    if metrics.loss is not None:
        result = [('Validation loss ', Text.meta), (f'{metrics.loss:.4f}', Text.value),
                  (', masked accuracy ', Text.meta), (f'{metrics.accuracy:.4f}', Text.value)]
    if conf.old_metrics.loss is not None:
        result += [(', on old text ', Text.meta), (f'{conf.old_metrics.loss:.4f}', Text.value), (' and ', Text.meta),
                   (f'{conf.old_metrics.accuracy:.4f}', Text.value)]
    logger.log([*result,
                (f' after {progress.tokens:,} tokens in {progress.seconds / 60:.1f} minutes '
                 f'({conf.throughput.mean:,.0f} tokens/s in training)', Text.meta)])


def script_path() -> str:
    """The script that trains, as it is called from here."""
    return os.path.relpath(sys.argv[0])


def _how_to_resume(run: Run) -> str:
    command, size = 'python', ranks().size
    if size > 1:
        is_one_machine = os.environ.get('LOCAL_WORLD_SIZE') == str(size)
        command = f'torchrun --nproc_per_node={size}' if is_one_machine else 'torchrun …'
    return f'To resume: {command} {script_path()} --resume {run.uuid}'
