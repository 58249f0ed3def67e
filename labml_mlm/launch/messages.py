"""Messages at the end of a run: its result, or how to resume it."""
import math
import os
import shlex
import sys
from pathlib import Path

from labml import logger, tracker
from labml.internal.experiment import experiment_singleton, has_experiment
from labml.logger import Text

from labml_mlm.common.errors import UserError
from labml_mlm.common.project import logs_path
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.distributed.process_group import ranks
from labml_mlm.launch import session
from labml_mlm.runs.run import Run
from labml_mlm.tokenization.character import CharacterTokenizer
from labml_mlm.tokenization.subword import SubwordTokenizer

# Characters of an example
_EXAMPLE = 40


def interrupted(conf: MLMConfigs, run: Run) -> str:
    """After a signal."""
    tokens, saved = tracker.get_global_step() or 0, max(run.checkpoints.steps(), default=0)
    message = f'Interrupted after {tokens:,} tokens. '
    if not saved or saved != tokens:
        error = f' ({conf.checkpointer.error})' if conf.checkpointer.error else ''
        message += f'The last checkpoint is at {saved:,}{error}. ' if saved else f'There is no checkpoint yet{error}. '
    return f'{message}To resume: {how_to_resume(run)}'


def after_divergence(run: Run) -> str:
    """After too many steps whose loss or gradient was not finite."""
    helps = 'What usually helps: a lower optimizer.learning_rate, a longer lr_warmup_steps, grad_norm_clip=1, ' \
            'precision=fp32'
    if saved := max(run.checkpoints.steps(), default=0):
        return f'The last good checkpoint is at {saved:,} tokens. {helps}. To resume: {how_to_resume(run)}'
    return f'There is no checkpoint yet. {helps}'


def after_rank_failure() -> str:
    """After another rank failed."""
    if has_experiment():
        run = Run(experiment_singleton().run.run_path)
        if not run.path.exists():
            # It is on another machine
            return ''
        if saved := max(run.checkpoints.steps(), default=0):
            return f'The last checkpoint is at {saved:,} tokens. To resume: {how_to_resume(run)}'
    return 'There is no checkpoint yet'


def how_to_train_longer(conf: MLMConfigs) -> str:
    """Why a run is complete, and what to give."""
    progress = conf.progress
    if conf._is_out_of_patience:
        n = progress.validations_since_best
        return f'has become no better for {n} validations: give patience={2 * n}'
    for name, words in (('max_tokens', 'tokens'), ('max_minutes', 'minutes'), ('max_steps', 'steps')):
        if name in conf._budgets and progress.steps >= conf._end_step:
            budget = getattr(conf, name)
            return f'has completed all of its {words} ({budget:,}): give {name}={2 * budget}'
    done = max(conf.epochs, progress.epoch - progress.left_out)
    return f'has completed all of its epochs ({done:g}): give epochs={math.floor(done) + 1}'


def log_summary(conf: MLMConfigs):
    """After the last epoch."""
    metrics, progress = conf.valid_metrics, conf.progress
    logger.log('')
    result = [('Training is complete', Text.meta)]
    if metrics.summary:
        result = []
        for name, value in metrics.summary.items():
            result += [(f'{", " * bool(result)}{name} ', Text.meta), (f'{value:.4f}', Text.value)]
    if conf.old_metrics.loss is not None:
        result += [(', on old text ', Text.meta), (f'{conf.old_metrics.loss:.4f}', Text.value), (' and ', Text.meta),
                   (f'{conf.old_metrics.accuracy:.4f}', Text.value)]
    logger.log([*result,
                (f' after {progress.tokens:,} tokens in {progress.seconds / 60:.1f} minutes '
                 f'({conf.throughput.mean:,.0f} tokens/s in training)', Text.meta)])


def log_next(conf: MLMConfigs, run: Run):
    """Where a run is that is complete, and what to do with it."""
    logger.log(['The run is in ', (str(run.path), Text.value)])
    try:
        is_found = logs_path(Path.cwd()) == run.path.parent.parent
    except (UserError, OSError):
        is_found = False
    name = 'last' if is_found else str(run.path)
    command = ['predict', name, 'FILE'] if conf._objective != 'mlm' else ['fill-mask', name, _example(conf)]
    logger.log(['Next: ', (f'labml-mlm {shlex.join(command)}', Text.value)])


def _example(conf: MLMConfigs) -> str:
    """The beginning of a prompt with a token that is masked, if it has no mask yet; without prompts, no text."""
    tokenizer, prompts = conf._get_computed('tokenizer'), getattr(conf.sampler, 'prompts', None)
    if prompts and isinstance(tokenizer, CharacterTokenizer | SubwordTokenizer):
        ids = prompts[0].tolist()
        ids = next(ids[:n] for n in range(len(ids), 0, -1) if n == 1 or len(tokenizer.decode(ids[:n])) <= _EXAMPLE)
        letters = [i for i, id in enumerate(ids) if tokenizer.decode([id]).strip(' #').isalnum()]
        if letters and conf.mask_token not in ids:
            ids[letters[len(letters) // 2]] = conf.mask_token
        if conf.mask_token in ids:
            text = ' '.join(tokenizer.decode(ids).split())
            if text.isprintable():
                return text
    return 'TEXT WITH [MASK]'


def how_to_call(n_ranks: int = 1) -> str:
    """What trains, as it is called from here: `python train.py`, or `labml-mlm train`."""
    script = Path(sys.argv[0])
    is_module = script.parent.name == 'labml_mlm' and script.name == '__main__.py'
    is_command = is_module or script.name == 'labml-mlm'
    if n_ranks == 1 and is_command:
        return 'python -m labml_mlm train' if is_module else 'labml-mlm train'
    call = 'python'
    if n_ranks > 1:
        is_one_machine = os.environ.get('LOCAL_WORLD_SIZE') == str(n_ranks)
        call = f'torchrun --nproc_per_node={n_ranks}' if is_one_machine else 'torchrun …'
    return f'{call} -m labml_mlm train' if is_command else f'{call} {os.path.relpath(script)}'


def how_to_resume(run: Run) -> str:
    """What resumes a run, from here."""
    if not session.is_command():
        return f"train(conf, name='{run.experiment}', resume='{run.uuid}')"
    return f'{how_to_call(ranks().size)} --resume {run.uuid}'
