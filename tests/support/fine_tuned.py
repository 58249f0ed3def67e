"""Fine-tuned runs and models, small ones: labels of texts, of pairs and of words, and numbers."""
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from labml.internal.lab import lab_singleton

from labml_mlm import ClassificationConfigs, TaggingConfigs
from labml_mlm.inference.fine_tuned import FineTuned
from labml_mlm.inference.pretrained import silent
from support import published
from support.exports import randomize
from support.project import Project

GOOD, BAD, THINGS = ['excellent', 'lovely', 'brilliant'], ['awful', 'dull', 'tedious'], ['film', 'song', 'book', 'fox']
SMALL = {'transformer.n_layers': 2, 'd_model': 16, 'transformer.n_heads': 2, 'seq_len': 24}
_BERT = {**SMALL, 'transformer': 'bert', 'transformer.d_ff': 24, 'transformer.max_positions': 40,
         'tokenizer': 'wordpiece', 'vocab_size': 120}
_ROBERTA = {**_BERT, 'transformer': 'roberta', 'tokenizer': 'bpe', 'vocab_size': 300}
_CLS = {'pooling': 'cls', 'add_special_tokens': True}
_TAGS = {'text_path': 'tags.conll'}
# Models that `make_fine_tuned` makes, with the classes that represent them; those that begin with Labml are ours
MODELS = {
    'bert, cls': ({**_BERT, **_CLS}, 'BertForSequenceClassification'),
    'bert, mean, pairs': ({**_BERT, 'pair_field': 'pair'}, 'LabmlMLMForSequenceClassification'),
    'bert, cls, pairs': ({**_BERT, **_CLS, 'pair_field': 'pair'}, 'BertForSequenceClassification'),
    'bert, tags': ({**_BERT, **_TAGS}, 'BertForTokenClassification'),
    'roberta, cls, several': ({**_ROBERTA, **_CLS, 'label_field': 'topics'}, 'RobertaForSequenceClassification'),
    'roberta, mean': (_ROBERTA, 'LabmlMLMForSequenceClassification'),
    'roberta, tags': ({**_ROBERTA, **_TAGS}, 'RobertaForTokenClassification'),
    'modernbert, cls': ({**SMALL, **_CLS, 'transformer': 'modernbert'}, 'LabmlMLMForSequenceClassification'),
    'modernbert, mean, number': ({**SMALL, 'transformer': 'modernbert', 'label_field': 'rating'},
                                 'LabmlMLMForSequenceClassification'),
    'modernbert, tags': ({**SMALL, **_TAGS, 'transformer': 'modernbert'}, 'LabmlMLMForTokenClassification'),
    'own, cls, number': ({**SMALL, **_CLS, 'label_field': 'rating'}, 'EsmForSequenceClassification'),
    'own, mean, several': ({**SMALL, 'label_field': 'topics'}, 'LabmlMLMForSequenceClassification'),
    'own, tags': ({**SMALL, **_TAGS}, 'EsmForTokenClassification'),
    'own, relative, cls, pairs': ({**SMALL, **_CLS, 'transformer.encoder_attn': 'relative', 'pair_field': 'pair'},
                                  'LabmlMLMForSequenceClassification')}


def write_rows(folder: Path) -> Path:
    """Writes `rows.jsonl`, with a class, several labels, a number and a second text, and `tags.conll`."""
    rng, rows, tagged = random.Random(1), [], []
    for i in range(80):
        words = [rng.choice(GOOD if i % 2 else BAD), rng.choice(THINGS)]
        rows.append({'text': f'the {words[0]} {words[1]} number {i}', 'pair': f'what a {rng.choice(THINGS)}',
                     'label': 'good' if i % 2 else 'bad', 'topics': [words[1]] * (i % 3 > 0) + ['odd'] * (i % 2),
                     'rating': 2.5 * (i % 2) + i / 100 + 3})
        tagged.append(f'the O\n{words[0]} {"B-PRAISE" if i % 2 else "O"}\n{words[1]} O\nnumber O\n{i} O\n')
    (folder / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    (folder / 'tags.conll').write_text('\n'.join(tagged))
    return folder


def _script(configs: str, name: str) -> str:
    return f'from labml_mlm import {configs}, train\n\ntrain({configs}(), name="{name}")\n'


@pytest.fixture(scope='session')
def fine_tuned_runs(tmp_path_factory, fork_server) -> Project:
    """A project with the runs `abba` (classes, from a BERT), `beda` (numbers), `cafe` (pairs) and `deed` (tags)."""
    project = Project(tmp_path_factory.mktemp('fine_tuned'), fork_server)
    write_rows(project.path)
    encoder = published.save(project.path / 'encoder')
    own = [f'{name}={value}' for name, value in SMALL.items()]
    for uuid, configs, given in (
            ('abba', 'ClassificationConfigs', [f'init_from={encoder}', 'seq_len=24', 'optimizer.learning_rate=0.003']),
            ('beda', 'ClassificationConfigs', [*own, 'label_field=rating']),
            ('cafe', 'ClassificationConfigs', [*own, 'pair_field=pair']),
            ('deed', 'TaggingConfigs', [*own, 'text_path=tags.conll'])):
        project.script.write_text(_script(configs, 'labels'))
        result = project.run('text_path=rows.jsonl', 'epochs=2', 'batch_size=16', *given, env={'RUN_UUID': uuid})
        assert result.returncode == 0, result.stderr
    return project


@pytest.fixture(scope='session')
def make_fine_tuned(tmp_path_factory) -> Callable[..., FineTuned]:
    """Makes models whose every weight is random."""
    folder = write_rows(tmp_path_factory.mktemp('rows'))

    def make(**values: Any) -> FineTuned:
        given = {'text_path': 'rows.jsonl', **values}
        is_tagger = given['text_path'].endswith('.conll')
        lab, conf = lab_singleton(), (TaggingConfigs if is_tagger else ClassificationConfigs)()
        before, lab.data_path = lab.data_path, tmp_path_factory.mktemp('data')
        with silent():
            conf._set_values({**given, 'text_path': str(folder / given['text_path'])})
            conf.init()
            _ = conf.mask_token, conf._template, conf.valid_loader
        lab.data_path = before
        randomize(conf.model)
        return _WithRows(model=conf.model.eval(), tokenizer=conf.tokenizer, configs=conf, checkpoint=None,
                         about='a model')
    return make


class _WithRows(FineTuned):
    """Its rows for validation are at hand."""

    def validation_batches(self):
        return self.configs.valid_loader


@pytest.fixture(scope='session')
def fine_tuned(make_fine_tuned) -> dict[str, FineTuned]:
    """All `MODELS` by name."""
    return {name: make_fine_tuned(**values) for name, (values, _) in MODELS.items()}
