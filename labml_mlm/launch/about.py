"""
# What was built, before it is trained

A block of a few lines in place of labml's `Prepare …`: which text it is and why this one, and what will be done with
it. Everything in it is known already: nothing is measured for it.
"""
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from labml import logger
from labml.logger import Text

from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.data.loader import TrainLoader, loader_length
from labml_mlm.distributed.process_group import ranks
from labml_mlm.items.schema import chosen_value
from labml_mlm.launch.prepare import PreparedRun
from labml_mlm.runs.text_name import BUILT_IN, text_name
from labml_mlm.screen import console
from labml_mlm.screen.block import aligned
from labml_mlm.screen.live_frame import duration


def log_about(prepared: PreparedRun):
    """Says what was built, and whether the machine has time for it."""
    logger.log('')
    for name, value in aligned([*_rows(prepared)], width=console.columns() if sys.stdout.isatty() else None):
        logger.log([(name, Text.meta), value])
    _warn_of_load(prepared.conf)


def _rows(prepared: PreparedRun) -> Iterator[tuple[str, str]]:
    conf, run = prepared.conf, prepared.run
    yield 'run', f'{run.uuid}, of {run.experiment}'
    progress, n_steps = conf.progress, conf._total_steps
    if prepared.resumption:
        yield 'resumed', (f'from step {progress.steps:,} of {n_steps:,}, {progress.tokens:,} tokens, after '
                          f'{duration(progress.seconds)} of training' if progress.steps else 'from the beginning')
    yield 'text', _text(conf)
    yield 'tokenizer', _tokenizer(conf)
    if guesses := conf._get_computed('baselines'):
        shown = ', '.join(f'{name} {found.loss:.4f} ({found.accuracy:.4f})' for name, found in guesses.items())
        yield 'guesses', f'{shown}: loss and accuracy without a model'
    yield 'model', _model(conf)
    yield 'device', _device(conf)
    yield 'training', _training(conf, n_steps)
    if progress.steps and progress.seconds:
        left = progress.seconds / progress.steps * (n_steps - progress.steps)
        yield 'time', f'{duration(left)} left, if it is as fast as so far'
    elif 'max_minutes' in conf._budgets:
        yield 'time', f'{duration(60 * conf.max_minutes)}, by the speed that was measured'


def text_about(conf: MLMConfigs) -> str:
    """Which text it is, and how long, of configs that are trained."""
    snapshot = conf.checkpointer.metadata['configs']
    name, about = text_name(snapshot), snapshot['text']
    if name is None or about['characters'] is None:
        return 'batches of your own loader'
    n_documents = 1 if conf._objective != 'mlm' else conf.corpus.n_documents
    return f'{name}, {about["characters"]:,} characters' + (f' in {n_documents:,} documents' if n_documents > 1 else '')


def _text(conf: MLMConfigs) -> str:
    parts, tokens = [text_about(conf) + _why(conf)], conf._get_computed('tokens')
    if tokens is not None:
        parts.append(f'{len(tokens.train):,} tokens to train on, {len(tokens.valid):,} for validation')
    return '; '.join(parts)


def _why(conf: MLMConfigs) -> str:
    """Why it is this text."""
    source, text = conf._get_computed('auto_text'), chosen_value(conf, 'text')
    if conf._text_fallback is not None:
        return f' (built in: Tiny Shakespeare could not be downloaded: {conf._text_fallback})'
    if conf._is_resumed:
        return ''
    if conf._get_computed('text_path'):
        return ' (by text_path)'
    if source in BUILT_IN:
        default = chosen_value(conf, 'default_text')
        return f' (by default_text={default})' if default != 'tiny_shakespeare' else ' (the default)'
    return f' (by text={text})' if text in BUILT_IN else ''


def _tokenizer(conf: MLMConfigs) -> str:
    if conf._get_computed('tokenizer') is None:
        return f'none; {conf.n_tokens:,} tokens'
    chosen = chosen_value(conf, 'tokenizer')
    kind = chosen if isinstance(chosen, str) else type(conf.tokenizer).__name__
    if conf._saved_tokenizer is not None and not conf._is_resumed:
        kind = 'that of init_from'
    elif conf.tokenizer_path:
        kind = conf.tokenizer_path
    return f'{kind}, {conf.n_tokens:,} tokens'


def _model(conf: MLMConfigs) -> str:
    snapshot = conf.checkpointer.metadata['configs']
    values, n = {**snapshot['computed'], **snapshot['given']}, snapshot['parameters']
    parts = ['one of your own' if n is None else f'{n:,} parameters']
    if isinstance(n_layers := values.get('transformer.n_layers'), int):
        parts.append(f'{n_layers} layer{"s" * (n_layers > 1)}')
    if isinstance(values.get('d_model'), int):
        parts.append(f'd_model {values["d_model"]}')
    return ', '.join(parts)


def _device(conf: MLMConfigs) -> str:
    device = conf.device
    parts = [torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type]
    if device.type == 'cpu':
        n = torch.get_num_threads()
        parts.append(f'{n} thread{"s" * (n > 1)}')
    if ranks().size > 1:
        parts.append(f'{ranks().size} ranks')
    parts += [str(conf.precision).removeprefix('torch.'),
              'compiled' if getattr(conf.engine, 'is_compiled', False) else 'not compiled']
    return ', '.join(parts)


def _training(conf: MLMConfigs, n_steps: int) -> str:
    loader, is_mlm = conf.train_loader, conf._objective == 'mlm'
    parts = [f'{n_steps:,} steps']
    if loader_length(loader):
        parts.insert(0, f'{conf._n_epochs:.3g} epoch{"s" * (conf._n_epochs != 1)}')
    if not is_mlm:
        parts.append(f'{conf.batch_size} texts each')
    elif isinstance(loader, TrainLoader):
        # The last batch of a whole epoch may have fewer
        n_epochs, n_more = divmod(n_steps, len(loader))
        n_windows = min(n_steps * conf.batch_size, n_epochs * loader.n_windows + n_more * conf.batch_size)
        parts += [f'{conf.batch_size} × {conf.seq_len} tokens each', f'{n_windows * conf.seq_len:,.0f} in all']
    return ', '.join(parts)


def _warn_of_load(conf: Any):
    """Says if other processes want the cores that the threads of this one wait for."""
    n_threads, n_cores, load = torch.get_num_threads(), len(os.sched_getaffinity(0)), os.getloadavg()[0]
    if conf.device.type == 'cpu' and n_threads > 1 and load > n_cores:
        logger.log(f'This machine is busy: its load is {load:.1f}, and it has {n_cores} core{"s" * (n_cores > 1)}. '
                   f'{n_threads} threads may be slower than one: OMP_NUM_THREADS=1', Text.warning)
