"""
# Configs of the old text

A run that goes on with another text forgets the old one: how much, a validation on old text tells, and windows of old
text among the new prevent it.
"""
import functools
from typing import Annotated

import torch
from labml import logger
from labml.configs import option
from labml.internal.experiment import has_experiment
from labml.logger import Text
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.configs.tokens import TokenConfigs
from labml_mlm.data.loader import ValidLoader
from labml_mlm.data.packing import WindowSource
from labml_mlm.data.replay import MixedWindows
from labml_mlm.distributed.process_group import ranks
from labml_mlm.items.declarations import Item, Range
from labml_mlm.items.schema import is_given
from labml_mlm.screen.long_work import long_work
from labml_mlm.tokenization.token_cache import TokenCache

_OF_OLD_PATH = Item(refused='it is that of `old_path`')
_OF_REPLAY_PATH = Item(refused='it is that of `replay_path`')


class OldTextConfigs(TokenConfigs):
    """
    ## Configurations of the old text
    """
    old_path: Annotated[list[str], Item('Files and folders of old text that is not trained on, for a second '
                                        'validation: `loss.old` and `accuracy.old`', is_path=True,
                                        may_change=True)] = []
    replay_path: Annotated[list[str], Item('Files and folders of old text to train on, among the new', is_path=True,
                                           may_change=True)] = []
    replay_fraction: Annotated[float, Item('Fraction of the windows of an epoch that are of replay_path',
                                           Range(0, 0.99, is_open=True), belongs_to='a replay_path')] = 0.1
    # For `packing`: token ids, `[n]`, and ends of documents, `[n_documents]`
    old_tokens: Annotated[Tensor, _OF_OLD_PATH] = 'of_old_path'
    old_document_ends: Annotated[Tensor, _OF_OLD_PATH] = 'of_old_path'
    replay_tokens: Annotated[Tensor, _OF_REPLAY_PATH] = 'of_replay_path'
    replay_document_ends: Annotated[Tensor, _OF_REPLAY_PATH] = 'of_replay_path'
    old_loader: Annotated[ValidLoader, Item('Batches of old_path, `[seq_len, batch_size]`; `None` without it')] \
        = 'all_windows'

    @functools.cached_property
    def _old_cache(self) -> TokenCache | None:
        """The cache of `old_path`, if it is given."""
        return self._cache_of('old_path')

    @functools.cached_property
    def _replay_cache(self) -> TokenCache | None:
        """The cache of `replay_path`, if it is given."""
        return self._cache_of('replay_path')

    @functools.cached_property
    def _old(self) -> tuple[Tensor, Tensor]:
        return self._tokens_of(self._old_cache)

    @functools.cached_property
    def _replay(self) -> tuple[Tensor, Tensor]:
        return self._tokens_of(self._replay_cache)

    def _tokens_of(self, cache: TokenCache) -> tuple[Tensor, Tensor]:
        """Token ids, `[n]`, and ends of documents, `[n_documents]`."""
        tokenizer = self.tokenizer
        with long_work('Tokenizing the old text'):
            found = ranks().main_first(lambda: cache.tokens(cache.corpus(), tokenizer))
        return torch.from_numpy(found.train), torch.from_numpy(found.train_ends)

    def _check_old_texts(self):
        """A first pass over old text, to report its errors before anything is built."""
        # There is none with pairs
        _ = self._pair_kind
        if not self.replay_path and is_given(self, 'replay_fraction'):
            raise UserError(f'replay_fraction={self.replay_fraction} is for a replay_path, and there is none')
        for cache in (self._old_cache, self._replay_cache):
            if cache is not None:
                with long_work('Reading the old text'):
                    ranks().main_first(cache.corpus)

    @property
    def _train_windows(self) -> WindowSource:
        """The windows of the training loader."""
        main = super()._train_windows
        if not self.replay_path:
            return main
        windows = MixedWindows(main, self.packing('replay'), replay_fraction=self.replay_fraction)
        times = windows.n_replay / len(windows.replay)
        if times > 1 and has_experiment():
            logger.log(f'An epoch reads the text of replay_path {times:.1f} times: it has {len(windows.replay):,} '
                       f'windows, and {windows.n_replay:,} are needed', Text.warning)
        return windows


@option(OldTextConfigs.old_tokens, 'of_old_path')
def _old_tokens(c: OldTextConfigs):
    return c._old[0]


@option(OldTextConfigs.old_document_ends, 'of_old_path')
def _old_document_ends(c: OldTextConfigs):
    return c._old[1]


@option(OldTextConfigs.replay_tokens, 'of_replay_path')
def _replay_tokens(c: OldTextConfigs):
    return c._replay[0]


@option(OldTextConfigs.replay_document_ends, 'of_replay_path')
def _replay_document_ends(c: OldTextConfigs):
    return c._replay[1]


@option(OldTextConfigs.old_loader, 'all_windows')
def _old_loader(c: OldTextConfigs):
    return c._all_windows('old') if c.old_path else None
