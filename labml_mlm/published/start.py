"""
# What a run can go on from

A `PublishedEncoder` is a folder of `save_pretrained`, a `TrainedModel` a checkpoint of a run of ours. Either says what
the model and the tokenizer of the new run are, and has their weights. What else is given stays, unless it contradicts
the weights.
"""
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from labml.configs import BaseConfigs
from torch import Tensor, nn

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import expand_home, how_to_download, refuse_address
from labml_mlm.common.untrusted import is_integer
from labml_mlm.configs.snapshot import model_values, saved_tokenizer, with_current_names
from labml_mlm.items.schema import NO_DEFAULT, chosen_value, config_items
from labml_mlm.model.pairs import PARTS
from labml_mlm.published.custom_code import encoder_alone
from labml_mlm.published.families import family_of
from labml_mlm.published.folder import PublishedFolder, is_published
from labml_mlm.runs.choose import find_trained, read_model
from labml_mlm.runs.run import Run, is_run, list_runs
from labml_mlm.tokenization.base import Tokenizer
from labml_mlm.tokenization.subword import SubwordTokenizer
from labml_mlm.training.serialization import unpack_model
from labml_mlm.vocabulary.adapt import Vocabulary
from labml_mlm.vocabulary.folder_tokenizer import folder_tokenizer

# Items of a model that weights do not depend on
_FREE = {f'transformer.{name}' for name in ('dropout', 'attn_dropout', 'embed_dropout', 'ffn.dropout', 'seed')}
# Items of the tokenizer that nothing reads where it is taken over
_OF_TRAINED_TOKENIZERS = 'token_pattern', 'max_token_length', 'vocab_size'
# What predicts labels in a fine-tuned model
_OF_LABELS = 'generator.', 'criterion.'
# Buffers of older releases
_BUFFERS = 'position_ids', 'token_type_ids', 'inv_freq'


class Loaded(NamedTuple):
    """What came of loading weights."""
    # Has the folder a head for masked language modelling? Otherwise the model has a new one
    has_head: bool
    # Weights of the folder that were not used
    unused: list[str]
    # Has it a head for pairs, as far as the model has one?
    has_pairs: bool = True
    # The weights of its pooler, if it has one
    pooler: Mapping[str, Tensor] | None = None


class TrainedHead(NamedTuple):
    """The head of a fine-tuned model."""
    # What it predicts, as `LabelSet` has them
    kind: str
    names: tuple[str, ...]
    # Its weights, and what its loss knows of labels, by the names of the model
    state: dict[str, Tensor]


class Source:
    """
    ## What a run can go on from

    * `path` is its folder, and `about` describes it in words
    * `values` are those of the model, by dotted name
    * `n_tokens` is the number of its embeddings
    * `max_seq_len` is the longest sequence that it is made for, if it has a bound
    """

    def __init__(self, path: Path, *, about: str, values: dict[str, Any], n_tokens: int,
                 max_seq_len: int | None = None):
        self.path = path
        self.about = about
        self.values = values
        self.n_tokens = n_tokens
        self.max_seq_len = max_seq_len

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Its tokenizer, if it has one. Raises `UserError` if that cannot be used."""
        raise NotImplementedError

    @property
    def n_weights(self) -> int:
        """How many numbers its weights have."""
        raise NotImplementedError

    @property
    def head(self) -> TrainedHead | None:
        """Its head, if it was fine-tuned in a run."""
        return None

    def run_values(self, given: Mapping[str, Any], conf: BaseConfigs) -> dict[str, Any]:
        """
        The values of a run that goes on from it, by dotted name.

        * `given` are values of the run, and `conf` its configs

        Raises `UserError` for given ones that contradict the weights, for a `seq_len` that is too long, and if no
        tokenizer is given and the folder has none.
        """
        items = config_items(conf, chosen=self.values)
        for name, value in given.items():
            is_of_model = name.partition('.')[0] in ('transformer', 'd_model', 'n_tokens')
            # What is not among the values is as by default
            before = self.values.get(name, items[name].default if name in items else NO_DEFAULT)
            if is_of_model and name not in _FREE and value != before:
                before = 'not given' if before is NO_DEFAULT else before
                raise UserError(f'`{name}={value}` contradicts the weights of {self.path}: there it is {before}')
        values = {**self.values, **given, 'init_from': str(self.path.absolute())}
        if given.get('vocab_extend') or {'tokenizer', 'tokenizer_path'} & set(given) and self.tokenizer is not None:
            # They follow from the tokenizer
            for name in {'n_tokens', 'padding_token', 'mask_token', 'no_mask_tokens'} - set(given):
                values.pop(name, None)
        if not {'tokenizer', 'tokenizer_path'} & set(given):
            unread = [*_OF_TRAINED_TOKENIZERS, *(() if given.get('vocab_extend') else ('tokenizer_sample',))]
            if useless := [name for name in unread if name in given]:
                raise UserError(f'`{useless[0]}={given[useless[0]]}` is for a tokenizer that is trained, and this one '
                                f'comes from {self.path}: give `tokenizer`, too, for another one')
            if self.tokenizer is None:
                raise UserError(f'{self.path} has no tokenizer: give tokenizer=file and tokenizer_path=PATH')
            values['tokenizer'] = 'file' if isinstance(self.tokenizer, SubwordTokenizer) else self.tokenizer.kind
        seq_len = given.get('seq_len', chosen_value(conf, 'seq_len'))
        if isinstance(seq_len, int) and self.max_seq_len is not None and seq_len > self.max_seq_len:
            raise UserError(f'seq_len={seq_len} is longer than the {self.max_seq_len:,} positions of {self.path}')
        return values

    def state(self) -> tuple[dict[str, Tensor], list[str]]:
        """Its weights by the names of the model, those that it has; and the names of others that it has."""
        raise NotImplementedError

    @torch.no_grad()
    def load_weights(self, model: nn.Module, vocabulary: Vocabulary | None = None) -> Loaded:
        """
        Copies the weights into a model.

        * `vocabulary` is that of the model, if it is another one

        Raises `UserError` if weights of the encoder are missing, or if one has another shape.
        """
        state, unused = self.state()
        if vocabulary is not None:
            state = vocabulary.adapt(state)
        # Embeddings may be those of the head, too, and positions constant
        own = {**dict(model.named_buffers()), **dict(model.named_parameters(remove_duplicate=False))}
        missing = [name for name, _ in model.named_parameters() if name not in state]
        new_pairs = [name for name in missing if name.startswith(PARTS)]
        missing = [name for name in missing if name not in new_pairs]
        if of_encoder := [name for name in missing if not name.startswith('generator.')]:
            raise UserError(f'{self.path} lacks weights of the encoder: {", ".join(of_encoder)}')
        has_head = not missing
        if missing and any(name.startswith('generator.') for name in state):
            raise UserError(f'{self.path} has a part of a head only: it lacks {", ".join(missing)}')
        for name, weight in state.items():
            if name not in own and name.startswith(PARTS):
                unused = [*unused, name]
                continue
            if name not in own:
                raise UserError(f'{self.path} has {name}, and the model has not')
            if weight.shape != own[name].shape:
                raise UserError(f'{self.path}: {name} has shape {list(weight.shape)}, and in the model it has '
                                f'{list(own[name].shape)}')
            own[name].copy_(weight)
        pooler = {name.removeprefix('pooler.'): weight for name, weight in state.items() if name.startswith('pooler.')}
        return Loaded(has_head, unused, not new_pairs, pooler or None)


class PublishedEncoder(Source):
    """
    ## A folder that `save_pretrained` wrote

    Raises `UserError` if it is none, is damaged, or has an architecture that cannot be represented here.
    """

    def __init__(self, path: Path):
        self.folder = encoder_alone(PublishedFolder(path))
        self.family = family_of(self.folder)
        try:
            items = self._items = self.family.items(self.folder.config, self.folder.weights)
        except UserError as e:
            raise UserError(f'{path}: {e}') from None
        n_numbers_there = n_numbers(self.folder.weights)
        for name, most in (('n_layers', len(self.folder.weights)), ('n_tokens', n_numbers_there),
                           ('d_model', n_numbers_there)):
            if (asked := items.get(name, 0)) > most:
                raise UserError(f'{path}: the configs are damaged, or not those of the weights: they ask for '
                                f'{name}={asked:,}, and there are {len(self.folder.weights):,} weights, of '
                                f'{n_numbers_there:,} numbers')
        values = {name if name in ('d_model', 'n_tokens') else f'transformer.{name}': value
                  for name, value in items.items()}
        super().__init__(path, about=f'{path}, {self.family.model_type}', n_tokens=items['n_tokens'],
                         max_seq_len=items.get('max_positions'),
                         values={'transformer': self.family.option, **values})

    @functools.cached_property
    def tokenizer(self) -> SubwordTokenizer | None:
        """The tokenizer of the folder, if it has one. Raises `UserError` if it has more tokens than embeddings."""
        tokenizer = folder_tokenizer(self.path)
        if tokenizer is not None and tokenizer.n_tokens > self._items['n_tokens']:
            raise UserError(f'the tokenizer of {self.path} has {tokenizer.n_tokens:,} tokens, and there are embeddings '
                            f'of {self._items["n_tokens"]:,} only')
        return tokenizer

    def run_values(self, given: Mapping[str, Any], conf: BaseConfigs) -> dict[str, Any]:
        """
        `Source.run_values`. Special tokens around each window are those that the tokenizer of the folder has, and the
        learning rate suits an encoder that is trained already.
        """
        values = super().run_values(given, conf)
        optimizer = given.get('optimizer', chosen_value(conf, 'optimizer'))
        if 'optimizer.optimizer' not in given and optimizer in conf._going_on_rates:
            values.setdefault('optimizer.learning_rate', conf._going_on_rates[optimizer])
        if not {'tokenizer', 'tokenizer_path'} & set(given) and chosen_value(conf, 'add_special_tokens') == 'auto':
            values.setdefault('add_special_tokens', self.tokenizer.template.length > 0)
        return values

    @property
    def n_weights(self) -> int:
        """`Source.n_weights`."""
        return n_numbers(self.folder.weights)

    def state(self) -> tuple[dict[str, Tensor], list[str]]:
        """`Source.state`."""
        state, used = self.family.read(self.folder.weights, self._items)
        return state, [name for name in self.folder.weights if name not in used and not name.endswith(_BUFFERS)]


class TrainedModel(Source):
    """
    ## A run of ours, or one of its checkpoints

    * `run` and `at` are what `find_run` returns, and `conf` are configs of the class of the new run

    Raises `UserError` if it has no checkpoint that can be used.
    """

    def __init__(self, run: Run, at: Path | None, conf: BaseConfigs):
        chosen, about, self._tensors = read_model(run, at, 'start')
        self._checkpoint = chosen
        snapshot = chosen.metadata.get('configs')
        if snapshot is None:
            raise UserError(f'{chosen.path} lacks the configs of its run')
        self._snapshot = with_current_names(conf, snapshot, is_model_only=True)
        self._labels = snapshot.get('labels')
        values = model_values(conf, self._snapshot)
        n_tokens = {**snapshot['computed'], **snapshot['given']}.get('n_tokens')
        if not is_integer(n_tokens) or n_tokens > self.n_weights:
            raise UserError(f'the configs of {chosen.path} are damaged: they have n_tokens={n_tokens!r:.60}')
        super().__init__(chosen.path, about=about, values=values, n_tokens=n_tokens,
                         max_seq_len=values.get('transformer.max_positions'))

    def run_values(self, given: Mapping[str, Any], conf: BaseConfigs) -> dict[str, Any]:
        """`Source.run_values`. A run that had special tokens around each window goes on with them."""
        values = super().run_values(given, conf)
        if not {'tokenizer', 'tokenizer_path'} & set(given) and chosen_value(conf, 'add_special_tokens') == 'auto' \
                and self._snapshot['computed'].get('add_special_tokens'):
            values.setdefault('add_special_tokens', True)
        return values

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the run."""
        return saved_tokenizer(self._snapshot['tokenizer'] or {}, self.path)

    @property
    def head(self) -> TrainedHead | None:
        """`Source.head`."""
        if self._labels is None:
            return None
        return TrainedHead(self._labels['kind'], tuple(self._labels['names']),
                           {name: weight for name, weight in self._state().items() if name.startswith(_OF_LABELS)})

    def state(self) -> tuple[dict[str, Tensor], list[str]]:
        """`Source.state`; the head of a fine-tuned model, which predicts no tokens, is in `head` alone."""
        state = self._state()
        if self._labels is None:
            return state, []
        # Fine-tuning makes the pooler a part of its head, if it uses it
        pooler = {name.removeprefix('generator.'): weight for name, weight in state.items()
                  if name.startswith('generator.pooler.')}
        return {name: weight for name, weight in state.items() if not name.startswith(_OF_LABELS)} | pooler, []

    @property
    def n_weights(self) -> int:
        """`Source.n_weights`."""
        return n_numbers(self._tensors)

    def _state(self) -> dict[str, Tensor]:
        state = unpack_model(self._checkpoint.metadata.get('model'), self._tensors, path=self._checkpoint.path)
        if not all(isinstance(weight, Tensor) for weight in state.values()):
            raise UserError(f'the model of {self._checkpoint.path} has what is no weight')
        return state


def n_numbers(tensors: Mapping[str, Tensor]) -> int:
    """How many numbers some tensors have."""
    return sum(tensor.numel() for tensor in tensors.values())


def find_source(name: str, logs: Path, conf: BaseConfigs) -> Source:
    """
    What `name` means: a folder that `save_pretrained` wrote, a run, or one of its checkpoints.

    * `logs` is labml's folder of experiments

    Raises `UserError` if there is none, if it is both, and what the sources raise.
    """
    refuse_address(name)
    path = expand_home(name)
    if not is_published(path):
        if path.is_dir() and not is_run(path):
            raise UserError(f'init_from={name}: the folder is neither one that save_pretrained wrote, as it has no '
                            'config.json, nor a run, nor a checkpoint')
        try:
            run, at, note = find_trained(logs, name)
            model = TrainedModel(run, at, conf)
            model.about += note
            return model
        except UserError as e:
            # A name with a slash is no run
            no_run = '' if '/' in name else f', and {e}'
            raise e if path.is_dir() else UserError(f'init_from={name}: there is no such folder{no_run}'
                                                    f'{how_to_download(name, "init_from")}') from None
    refuse_ambiguous(name, logs)
    return PublishedEncoder(path)


def refuse_ambiguous(name: str, logs: Path):
    """Raises `UserError` if the name of a published folder could mean a run, too."""
    if name == 'last' or any(run.experiment == name or run.uuid.startswith(name) for run in list_runs(logs)):
        raise UserError(f'{name} is both a run and a folder: give the path of the folder, such as ./{name}, or more of '
                        'the uuid of the run')
