"""
# Configs of baselines

What simple guesses reach on the validation set, before the first step: with that one can tell whether a loss is good.
"""
import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
from labml import logger, tracker
from labml.configs import option
from labml.internal.tracker import tracker_singleton
from labml.logger import Text

from labml_mlm.baselines.characters import characters
from labml_mlm.baselines.counts import frequencies, sampled
from labml_mlm.baselines.guesses import Guess
from labml_mlm.baselines.masked import Masked, MaskedTokens, is_neighbour
from labml_mlm.baselines.measured import as_json, measure
from labml_mlm.baselines.stuck import Plateau, StuckWarning, context_free_loss
from labml_mlm.data.batch import Batch
from labml_mlm.data.loader import TrainLoader, ValidLoader
from labml_mlm.distributed.process_group import ranks
from labml_mlm.items.declarations import DeclaredConfigs, Item
from labml_mlm.optim.optimizer import current_lr
from labml_mlm.runs.run import Run
from labml_mlm.screen import console


class BaselineConfigs(DeclaredConfigs):
    """
    ## Configurations of baselines
    """
    baselines: Annotated[dict[str, Guess] | None, Item(
        'Loss and accuracy that guesses without a model reach on the validation set; `none` does without, and without '
        'the warning of a run that is stuck at them', may_change=True)] = 'of_text'
    is_track_baselines: Annotated[bool, Item('Track them, too, as constant lines: `baseline.unigram`, …',
                                             may_change=True, belongs_to='runs with baselines')] = True

    @functools.cached_property
    def _characters(self) -> torch.Tensor | None:
        """Characters of each token, `[n_tokens]`, on the device; `None` if tokens are not those of the tokenizer."""
        if not self._is_tokenized or not _has_our_loaders(self):
            return None
        found = torch.from_numpy(characters(self.tokenizer, n_tokens=self.n_tokens))
        # The label of what is not to be predicted
        found[self.padding_token] = 0
        return found.to(self.device)

    @property
    def _guesses(self) -> dict[str, float]:
        """Losses of the baselines, by name."""
        return {name: found.loss for name, found in (self.baselines or {}).items()}

    def _build_baselines(self):
        """All that is read of them."""
        _ = self._characters
        if self.baselines:
            _ = self.is_track_baselines

    def run(self):
        """Trains, from wherever the run is, and warns if it is stuck."""
        if not self._is_built:
            self.init()
        with self._compared() if self.baselines and ranks().is_main else contextlib.nullcontext():
            super().run()

    @contextlib.contextmanager
    def _compared(self) -> Iterator[None]:
        """Inside, the loss is compared with that of guesses."""
        tracker.set_scalar('baseline.*', is_print=False)
        if not self.progress.steps:
            tracker.set_global_step(self.progress.tokens)
            self._track_baselines()
            # labml would begin a line of its own, which the live view does not replace
            with console.silent():
                tracker.save()
        if self.checkpointer.folder is not None:
            try:
                Run(self.checkpointer.folder.parent).baselines = as_json(self.baselines)
            except OSError as e:
                logger.log(f'Cannot save the baselines: {e}. The run continues', Text.warning)
        warning = StuckWarning(Plateau(self._without_context, n_steps=self._total_steps), causes=self._causes)
        tracker_singleton().add_writer(warning)
        try:
            yield
        finally:
            tracker_singleton().remove_writer(warning)

    def _validate(self):
        """A validation, with the baselines beside it."""
        super()._validate()
        self._track_baselines()

    def _track_baselines(self):
        if self.baselines and self.is_track_baselines:
            for name, found in self.baselines.items():
                tracker.add(f'baseline.{name}', found.loss)
                tracker.add(f'baseline.{name}.accuracy', found.accuracy)

    @property
    def _without_context(self) -> list[float]:
        """Losses of models that do not look at the context: on the validation set, and on the training text."""
        p = frequencies(sampled(self._training_text), is_maskable=self._is_maskable.numpy())
        fractions = {name: getattr(self.mlm, name, 0.) for name in ('randomize_prob', 'no_change_prob')}
        return [self.baselines['unigram'].loss, context_free_loss(p), context_free_loss(p, **fractions)]

    def _causes(self) -> str:
        """Why a run may be stuck, in words."""
        warm_up = f'{self.lr_warmup_steps:,} steps' if self._has_warm_up else 'there is none'
        return (f'the learning rate ({current_lr(self.optimizer):.2g} now; try a third of it, and three times as '
                f'much), the warm-up ({warm_up}; try a longer one), the batch ({self.batch_size:,} sequences; try a '
                'larger one), lines that repeat in the text, labels at tokens that are not masked')


def _has_our_loaders(c: Any) -> bool:
    """Are both loaders those of this package?"""
    return isinstance(c.train_loader, TrainLoader) and isinstance(c.valid_loader, ValidLoader)


@option(BaselineConfigs.baselines, 'of_text')
def _of_text(c: BaselineConfigs):
    # Of a loader of the user's, nobody knows what it was made of
    if not _has_our_loaders(c):
        return None
    with ranks().synchronize_errors():
        found = _measure(c) if ranks().is_main else None
    return ranks().broadcast(found) or None


def _measure(c: BaselineConfigs) -> dict[str, Guess]:
    # Beside the tokens; those of the user's own have no such folder
    folder: Path | None = c._token_cache.folder if c._is_tokenized else None
    return measure(c._training_text, _masked(c), is_maskable=c._is_maskable.numpy(), folder=folder)


def _masked(c: BaselineConfigs) -> Masked:
    """The masked tokens of a validation, which find all generators as they were."""
    # One of its own: the next call of the other gives the first masks
    found, masking = MaskedTokens(), type(c._valid_masking)(c.valid_mlm)
    generator = getattr(c.valid_mlm, 'generator', None)
    state = generator.get_state() if isinstance(generator, torch.Generator) else None
    neighbours = is_neighbour(c.n_tokens, {*c._separators, c.padding_token})
    masking.restart()
    try:
        for batch in c.valid_loader:
            if found.is_enough:
                break
            batch = Batch(batch) if isinstance(batch, torch.Tensor) else batch
            _, labels = masking(batch.tokens.to(c.device))
            found.add(Masked.of_batch(batch.tokens, labels, padding_token=c.padding_token, is_neighbour=neighbours,
                                      document_ids=batch.document_ids))
    finally:
        if state is not None:
            generator.set_state(state)
    return found.all
