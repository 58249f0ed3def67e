"""
# Configs of a probe during training

A loss says how well a model fills in masked tokens; a probe, whether what it knows is of use for something else.
"""
import re
from pathlib import Path
from typing import Annotated

from labml import logger
from labml.configs import option
from labml.internal.experiment import has_experiment

from labml_mlm.common.errors import UserError
from labml_mlm.distributed.process_group import ranks
from labml_mlm.items.declarations import DeclaredConfigs, Item, at_least
from labml_mlm.items.schema import is_given
from labml_mlm.model.transformer import TransformerMLM
from labml_mlm.probing.examples import Examples, read_examples
from labml_mlm.probing.probe import ProbeData, longest, prepare, require_sklearn
from labml_mlm.probing.prober import Prober
from labml_mlm.probing.sequences import Sequences

# More are not worth the time at each validation
_MAX_TEXTS = 5000


class ProbeConfigs(DeclaredConfigs):
    """
    ## Configurations of a probe
    """
    probe_path: Annotated[str, Item('File of labelled texts, .jsonl, .csv or .tsv: how many of them a logistic '
                                    'regression tells by the features of the model, at validations: '
                                    '`probe.accuracy.middle` and `probe.accuracy.last`, by layer',
                                    may_change=True)] = ''
    probe_text_field: Annotated[str, Item('The field of probe_path that has the text', may_change=True,
                                          belongs_to='a probe_path')] = 'text'
    probe_label_field: Annotated[str, Item('The field of probe_path that has the label', may_change=True,
                                           belongs_to='a probe_path')] = 'label'
    probe_every: Annotated[int, Item('One of how many validations is followed by a probe', at_least(1),
                                     may_change=True, belongs_to='a probe_path')] = 1
    prober: Annotated[Prober, Item('Probes the model; `None` without probe_path')] = 'logistic_regression'

    def _check_prober(self):
        """Raises `UserError` for items of a probe that there is not, and for anything wrong with one that there is."""
        if self.prober is not None:
            return
        for name in ('probe_text_field', 'probe_label_field', 'probe_every'):
            if is_given(self, name):
                raise UserError(f'{name}={getattr(self, name)} is for a probe_path, and there is none')


@option(ProbeConfigs.prober, 'logistic_regression')
def _prober(c: ProbeConfigs):
    if not c.probe_path:
        return None
    require_sklearn('probe_path')
    if not isinstance(c.model, TransformerMLM):
        raise UserError(f'probe_path: a `model` of your own, {type(c.model).__name__}, must be a TransformerMLM, to be '
                        'probed layer by layer')
    sequences = Sequences(c.tokenizer, template=c._template, longest=longest(c.model, c.seq_len))
    examples = _examples(c)
    data = prepare(examples, sequences)
    if has_experiment() and ranks().is_main:
        _log(c, data)
    return Prober(data, sha256=examples.sha256, every=c.probe_every, ranks=ranks(), is_sharded=c.parallel.is_sharded)


def _examples(c: ProbeConfigs) -> Examples:
    try:
        return read_examples(Path(c.probe_path), text_field=c.probe_text_field, label_field=c.probe_label_field,
                             max_texts=_MAX_TEXTS)
    except UserError as e:
        # By the names of the items here
        message = re.sub(r'\b(?=(?:text|label)_field\b)', 'probe_', str(e))
        raise UserError(f'probe_path={c.probe_path}: {message}') from None


def _log(c: ProbeConfigs, data: ProbeData):
    logger.log(f'Probe: {c.probe_path}, {data.n_train:,} texts to learn from, {data.n_valid:,} held out, '
               f'{len(data.names):,} labels; the most frequent one is right in {data.majority:.1%}')
    for note in data.notes:
        logger.log(f'Probe: {note}')
