"""
# From a run to a model

`load` builds the model from the checkpoint alone: the text that it was trained on is not needed, and nothing that comes
with the checkpoint is executed.
"""
from contextlib import suppress
from pathlib import Path

import torch

from labml_mlm.common.errors import UnknownPart, UserError
from labml_mlm.common.importing import find_class, subclasses
from labml_mlm.common.project import logs_path, logs_path_for
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.configs.snapshot import TOKENIZERS, model_values, restored_values, saved_tokenizer, with_current_names
from labml_mlm.configs.training import TrainingConfigs
from labml_mlm.finetuning.classification import ClassificationConfigs
from labml_mlm.finetuning.tagging import TaggingConfigs
from labml_mlm.inference.fine_tuned import FineTuned
from labml_mlm.inference.pretrained import BATCH_TOKENS, Pretrained, silent
from labml_mlm.labelled.labels import LabelSet
from labml_mlm.published.folder import is_published
from labml_mlm.published.start import PublishedEncoder, n_numbers, refuse_ambiguous
from labml_mlm.runs.checkpoint import Checkpoint
from labml_mlm.runs.choose import find_trained, read_model
from labml_mlm.runs.run import is_run
from labml_mlm.tokenization.character import CharacterTokenizer
from labml_mlm.training.serialization import unpack_model

# Items that say how a run began
_OF_START = 'init_from', 'vocab_extend'
# Of the windows of a text on which a published encoder is evaluated
_SEQ_LEN = 512


def load(run: str | Path, *, which: str = 'best', configs: MLMConfigs | None = None,
         device: str | torch.device | None = None, folder: str | Path = '.') -> Pretrained:
    """
    A trained model.

    * `run` is a run's uuid or the beginning of it, its name or `last` for the newest with a checkpoint, its folder,
      that of one of its checkpoints, or the folder of a published encoder, as `save_pretrained` writes it
    * `which` checkpoint: the `best` by validation loss (the last, if there was no validation), the `last`, or a step
    * `configs` are freshly made configs of your own class, if the run has such and its file was not imported before
    * `device` is by default a CUDA device if there is one
    * `folder` is in the labml project whose runs are meant

    Raises `UserError` if there is no such run or checkpoint, if none is intact, and if the model has parts of your own
    that are unknown here: import the file that registers them first.
    """
    path = Path(run).expanduser()
    if is_published(path) and not is_run(path):
        if which != 'best':
            raise UserError(f'{path} is a published encoder, and has no checkpoint {which}')
        if len(path.parts) == 1:
            logs = None
            # Outside of a project there are no runs
            with suppress(UserError):
                logs = logs_path(Path(folder))
            if logs is not None:
                refuse_ambiguous(str(run), logs)
        return _load_published(path, MLMConfigs() if configs is None else configs, device)
    found, at, note = find_trained(logs_path_for(run, folder), str(run))
    chosen, about, tensors = read_model(found, at, str(which).replace(',', ''))
    about += note
    objective = _objective(chosen)
    conf = _new_configs(objective, chosen.metadata['configs']) if configs is None else configs
    if conf._objective != objective:
        raise UserError(f'{about}: it was trained for {objective}, and the configs are for {conf._objective}')
    with silent(), torch.random.fork_rng(devices=[]):
        _configure(conf, chosen, device)
        conf._n_weights = n_numbers(tensors)
        model = conf.model
        if objective == 'mlm':
            # `evaluate` needs the masks and the reader
            _ = conf.valid_mlm, conf.batch_reader
        else:
            # Nothing is to be printed later
            _ = conf.seq_len, conf.mask_token, conf.add_special_tokens
        state = unpack_model(chosen.metadata.get('model'), tensors, path=chosen.path)
        try:
            model.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as e:
            raise UserError(f'the model of {chosen.path} differs: {" ".join(str(e).split())}') from None
        source = chosen.metadata['configs']['given'].get('init_from')
        kind = Pretrained if objective == 'mlm' else FineTuned
        return kind(model=model.eval(), tokenizer=conf.tokenizer, configs=conf, checkpoint=chosen, about=about,
                    source=Path(source) if source else None)


def _objective(chosen: Checkpoint) -> str:
    """What the run learned. Raises `UserError` if the checkpoint does not say."""
    if chosen.metadata.get('configs') is None:
        raise UserError(f'{chosen.path} lacks the configs of its run')
    # Earlier runs had no other
    return chosen.metadata['configs'].get('objective', 'mlm')


def _new_configs(objective: str, snapshot: dict) -> TrainingConfigs:
    """
    Configs for what a run learned, of its own class where that was imported.

    Raises `UnknownPart` for something that is unknown here.
    """
    classes = {'mlm': MLMConfigs, 'classification': ClassificationConfigs, 'tagging': TaggingConfigs}
    script = snapshot.get('script')
    class_ = find_class(TrainingConfigs, snapshot.get('class', ''), script) or classes.get(objective)
    if class_ is None:
        raise UnknownPart(f'the run was trained for {objective}, which is unknown here', script)
    return class_()


def _load_published(path: Path, conf: MLMConfigs, device: str | torch.device | None) -> Pretrained:
    """A published encoder, with configs of ours."""
    source = PublishedEncoder(path)
    if source.tokenizer is None:
        raise UserError(f'{path} has no tokenizer')
    conf.tokenizer = source.tokenizer
    conf._set_values({**source.values, 'add_special_tokens': source.tokenizer.template.length > 0,
                      'seq_len': min(source.max_seq_len or _SEQ_LEN, _SEQ_LEN),
                      'valid_batch_size': BATCH_TOKENS // _SEQ_LEN})
    conf.device = _device(device)
    with silent(), torch.random.fork_rng(devices=[]):
        conf._n_weights = source.n_weights
        loaded = source.load_weights(conf.model)
        _ = conf.valid_mlm, conf.batch_reader
    return Pretrained(model=conf.model.eval(), tokenizer=source.tokenizer, configs=conf, checkpoint=None,
                      about=source.about, source=path, has_head=loaded.has_head)


def _device(device: str | torch.device | None) -> torch.device:
    return torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))


def _configure(conf: MLMConfigs, chosen: Checkpoint, device: str | torch.device | None):
    """Gives configs the values and the tokenizer of the run."""
    snapshot = with_current_names(conf, chosen.metadata['configs'])
    if snapshot.get('labels') is not None:
        conf._saved_labels = LabelSet(snapshot['labels']['kind'], tuple(snapshot['labels']['names']))
    values = {name: value for name, value in restored_values(conf, snapshot).items()
              if not name.startswith('device') and name not in _OF_START} | model_values(conf, snapshot)
    saved = snapshot['tokenizer']
    kind = saved and saved.get('kind')
    # A class that keeps the kind of ours is not meant by it
    own = None if kind in TOKENIZERS else next(
        (class_ for class_ in subclasses(CharacterTokenizer) if class_.kind == kind), None)
    if kind in TOKENIZERS or own is not None:
        values.pop('tokenizer', None)
        conf.tokenizer = saved_tokenizer(saved, chosen.path) if own is None else own.from_dict(saved)
    elif saved is not None and type(conf) is MLMConfigs:
        raise UnknownPart(f'the run has a tokenizer of the kind {kind}, which is unknown here', snapshot.get('script'))
    conf._set_values(values)
    conf.device = _device(device)
