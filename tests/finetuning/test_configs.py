import math

import pytest
import torch
from support.labelled import animal, share, texts, write_rows, write_texts

from labml_mlm import ClassificationConfigs, TaggingConfigs
from labml_mlm.budget import speed
from labml_mlm.budget.speed import Speed
from labml_mlm.common.errors import UserError
from labml_mlm.configs.snapshot import take_snapshot
from labml_mlm.items.help import help_text
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.runs.checkpoint_folder import CheckpointFolder


@pytest.mark.parametrize('n_train, batch_size, epochs', [
    # Enough for 100 steps, and from 3 to 20
    (8, 32, 20), (45, 32, 20), (180, 32, 17), (900, 32, 4), (1600, 32, 3), (45, 8, 17), (180, 8, 5), (400, 8, 3)])
def test_epochs_by_rows(fine_tune, tmp_path, n_train, batch_size, epochs):
    files = {name: str(write_texts(tmp_path / f'{name}.jsonl', n)) for name, n in
             (('text_path', n_train), ('valid_path', 9))}
    conf = fine_tune(**files, batch_size=batch_size)
    assert conf.epochs == epochs == min(20, max(3, math.ceil(100 / math.ceil(n_train / batch_size))))


@pytest.mark.parametrize('values, warm_up', [({'epochs': 4}, 3), ({'max_steps': 25}, 2), ({}, 10),
                                             ({'epochs': 4, 'lr_warmup_steps': 7}, 7)])
def test_warm_up_is_a_tenth_of_training(fine_tune, values, warm_up):
    """Of 9 steps in an epoch."""
    assert fine_tune(**values).lr_warmup_steps == warm_up


@pytest.mark.parametrize('values, steps', [
    ({'epochs': 0.5}, 4), ({'epochs': 2.4}, 22), ({'max_tokens': 500}, None), ({'max_minutes': 0.01}, 30)])
def test_runs_of_any_length(fine_tune, tracked, monkeypatch, values, steps):
    """With a warm-up of a tenth, whatever says how long it is."""
    monkeypatch.setattr(Speed, 'steps_in', lambda self, seconds: 30)
    monkeypatch.setattr(speed, '_MOST_CALLS', 2)
    conf = fine_tune(**values)
    counted, after = [], conf.trainer.after_step
    conf.trainer.after_step = lambda: (counted.append(conf.progress.tokens), after())
    conf.run()
    assert conf._is_complete and len(counted) == conf.progress.steps == conf._n_steps
    assert conf.lr_warmup_steps == conf._n_steps // 10 and conf.valid_metrics.loss is not None
    assert steps in (None, conf.progress.steps)
    assert counted[-2] < values.get('max_tokens', counted[-1]) <= counted[-1]


@pytest.mark.parametrize('d_model, option, rate', [(16, 'mlm', 3e-4), (256, 'mlm', 5e-5), (16, 'muon', 1e-3)])
def test_learning_rate_goes_by_the_size_of_the_model(fine_tune, d_model, option, rate):
    assert fine_tune(d_model=d_model, optimizer=option).optimizer.param_groups[0]['initial_lr'] == pytest.approx(
        rate, rel=1e-3)


def test_learning_rate_goes_up_and_down_to_zero(fine_tune, tracked):
    conf = fine_tune(epochs=4)
    conf.run()
    rates = tracked['lr']
    assert len(rates) == 36 and rates.index(max(rates)) == 2 and max(rates) == pytest.approx(3e-4)
    assert 0 < rates[-1] < 2e-5 and sorted(rates[3:], reverse=True) == rates[3:]


@pytest.mark.parametrize('items', [ClassificationConfigs, TaggingConfigs])
@pytest.mark.parametrize('argument, why', [
    ('masking_prob=0.2', 'fine-tuning masks nothing'), ('masking=word', 'fine-tuning masks nothing'),
    ('valid_masking_prob=0.2', 'fine-tuning masks nothing'), ('mlm=mlm', 'fine-tuning masks nothing'),
    ('packing=documents', 'fine-tuning trains on the rows of `text_path`'),
    ('seq_len_schedule=8:0.1,16', 'fine-tuning trains on the rows of `text_path`'),
    ('text_glob=*.csv', 'fine-tuning trains on the rows of `text_path`'),
    ('text_unit=paragraph', 'fine-tuning trains on the rows of `text_path`'),
    ('replay_path=a.txt', 'fine-tuning trains on the rows of `text_path`'),
    ('old_path=a.txt', 'fine-tuning trains on the rows of `text_path`'),
    ('text=file', 'it follows from the rows of `text_path`'),
    ('train_loader=shuffled_windows', 'it gives the rows of `text_path`')])
def test_items_of_pre_training_are_refused(items, argument, why):
    with pytest.raises(UserError, match=argument.partition('=')[0]) as e:
        parse_overrides(items(), [argument])
    assert why in str(e.value)


@pytest.mark.parametrize('argument', ['prompt=a', 'n_prompts=3', 'compile=true', 'is_padded=true', 'batch_first=true'])
def test_items_of_mlm_are_unknown(argument):
    with pytest.raises(UserError, match=argument.partition('=')[0]):
        parse_overrides(ClassificationConfigs(), [argument])


def test_help_lists_what_can_be_given():
    text = help_text(ClassificationConfigs(), 'all')
    items = {line.partition('=')[0].strip() for line in text.splitlines() if '=' in line[:40]}
    assert {'init_from', 'text_path', 'label_field', 'pair_field', 'metric', 'patience', 'class_weights', 'pooling',
            'freeze', 'lr_layer_decay', 'epochs', 'tokenizer'} <= items
    assert not {'masking_prob', 'packing', 'compile', 'prompt', 'train_loader'} & items


@pytest.mark.parametrize('values, message', [
    ({'metric': 'rmse'}, 'metric=rmse: for these labels it must be accuracy, f1_macro, matthews or loss'),
    ({'class_weights': 'even'}, 'class_weights=even: it must be none or balanced'),
    ({'class_weights': 'balanced', 'label': share}, 'class_weights=balanced is for labels, and these are numbers'),
    ({'text_path': ''}, 'fine-tuning needs labelled texts: text_path=FILE'),
    ({'n': 3}, 'valid_fraction=0.1 of 3 rows leaves nothing to validate on: give a valid_path, or more rows'),
    ({'n': 1}, "rows.jsonl has a single row, and at least two labels are needed"),
    ({'label': lambda text: 'same'}, "all 80 rows of .*rows.jsonl have the same label, 'same': there is nothing to"),
    ({'label': lambda text: 2.5}, 'all 80 rows of .*rows.jsonl have the same number, 2.5: there is nothing to learn'),
    ({'label': lambda text: math.nan}, 'rows.jsonl, line 1 has no label: its field `label` .* is NaN'),
    ({'label': lambda text: math.inf if text.startswith('lazy') else 0.5}, 'must be a finite number'),
    ({'label_field': 'lable'}, r"line 1 has no field `lable` \(label_field\): its fields are 'text', 'label'"),
    ({'seq_len': 2, 'add_special_tokens': True}, 'seq_len=2 leaves no room for text'),
    ({'seq_len': 600, 'transformer': 'bert', 'transformer.max_positions': 99}, 'seq_len=600 is longer than .*: 99'),
    ({'batch_size': 9, 'gradient_accumulation_steps': 2}, 'batch_size=9 cannot be split'),
    ({'freeze': 'layers:7'}, 'freeze=layers:7: it must be embeddings, or layers:N with N from 1 to 1'),
])
def test_what_cannot_be_is_refused_before_training(fine_tune, values, message):
    with pytest.raises(UserError, match=message):
        fine_tune(**values)


def test_valid_fraction_is_refused_beside_a_valid_path(fine_tune, tmp_path):
    valid = str(write_texts(tmp_path / 'valid.jsonl', 9))
    assert len(fine_tune(valid_path=valid).train_loader.windows) == 80
    with pytest.raises(UserError, match=r'valid_fraction=0.1 is for runs without a valid_path'):
        fine_tune(valid_path=valid, valid_fraction=0.1)


def test_validation_may_lack_a_label_but_has_no_other(fine_tune, tmp_path):
    lacking = write_rows(tmp_path / 'lacking.jsonl', [{'text': 'the dog', 'label': 'none'}])
    assert fine_tune(valid_path=str(lacking))._labels.names == ('fox', 'none')
    other = write_rows(tmp_path / 'other.jsonl', [{'text': 'the dog', 'label': 'none'}, {'text': 'a', 'label': 'nome'}])
    with pytest.raises(UserError, match=r"other.jsonl has labels that were not there in training: 'nome' \(line 2\). "
                                        "Known are 'fox', 'none'. Did you mean `none`"):
        fine_tune(valid_path=str(other))


def test_labels_may_change_and_another_is_another_text(fine_tune, tmp_path):
    """A resumed run is to have the same labels, too."""
    before = take_snapshot(fine_tune(), experiment='test')['text']
    assert before == take_snapshot(fine_tune(), experiment='test')['text']
    rows = [{'text': text, 'label': animal(text)} for text in texts(80)]
    rows[7]['label'] = 'none' if rows[7]['label'] == 'fox' else 'fox'
    changed = take_snapshot(fine_tune(text_path=str(write_rows(tmp_path / 'other.jsonl', rows))), experiment='test')
    assert (before['sha256'], before['valid_sha256']) != (changed['text']['sha256'], changed['text']['valid_sha256'])


def test_tokenizer_is_trained_on_all_rows_to_train_on(fine_tune):
    conf = fine_tune(tokenizer='basic_english')
    train, valid = conf._rows
    words = {word for row in train.rows for word in row.text.split()}
    assert words <= {token.strip() for token in conf.tokenizer.tokens}
    assert conf.corpus.n_documents == len(train.rows) and len(valid.rows) == 8


def test_longer_texts_are_cut_and_counted(fine_tune):
    conf = fine_tune(seq_len=20)
    counts = conf.train_loader.windows.counts
    assert counts.n_cut == sum(len(row.text) > 20 for row in conf._rows[0].rows) > 30
    assert all(len(batch.tokens) <= 20 for batch in conf.train_loader)
    assert f'{counts.n_cut} of 72 texts are longer than 20 tokens, and are cut at their end' in counts.messages()


@pytest.mark.parametrize('options, expected', [
    ({}, 256), ({'transformer': 'bert', 'transformer.max_positions': 40}, 40),
    ({'transformer': 'bert', 'transformer.max_positions': 600}, 256)])
def test_longest_text_is_what_the_model_takes(build, tmp_path, options, expected):
    conf = build(ClassificationConfigs, text_path=str(write_texts(tmp_path / 'a.jsonl', 80)), seq_len='by_model',
                 **options)
    assert conf.seq_len == expected


@pytest.mark.parametrize('metric, label', [('rmse', share), ('spearman', share), ('accuracy', animal),
                                           ('loss', animal)])
def test_best_checkpoint_is_kept_by_the_metric(fine_tune, tmp_path, tracked, metric, label):
    conf = fine_tune(label=label, metric=metric, epochs=8, keep_checkpoints=1, checkpoint_interval=None)
    conf.checkpointer.folder = tmp_path / 'checkpoints'
    save, seen = conf.checkpointer.save, {}

    def saved(c, *, valid=None):
        save(c, valid=valid)
        c.checkpointer.finish()
        seen[c.progress.tokens] = valid[metric]

    conf.checkpointer.save = saved
    conf.run()
    assert len(seen) == 8 and len(set(seen.values())) > 1
    best = (max if metric in ('accuracy', 'spearman') else min)(seen.values())
    folder = CheckpointFolder(conf.checkpointer.folder)
    # The later of equal ones
    assert folder.best().step == [step for step, value in seen.items() if value == best][-1]
    assert folder.best().valid[metric] == best
    assert set(folder.steps()) == {folder.best().step, [*seen][-1]}


def test_run_without_progress_ends_by_patience(fine_tune, tracked):
    conf = fine_tune(patience=2, epochs=50, **{'optimizer.learning_rate': 1e-30})
    conf.run()
    # The first one is the best, and two are not better
    assert conf.progress.epoch == 3 and len(tracked['f1_macro.']) == 3


def test_frozen_layers_stay_and_layers_have_their_rates(fine_tune, tracked):
    conf = fine_tune(epochs=1, freeze='layers:1', **{'transformer.n_layers': 2})
    before = {name: weight.clone() for name, weight in conf.model.state_dict().items()}
    conf.run()
    changed = {name for name, weight in conf.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if name.startswith(('encoder.layers.1.', 'encoder.norm', 'generator.'))}
    decayed = fine_tune(lr_layer_decay=0.5, **{'transformer.n_layers': 2})
    names = {id(p): name for name, p in decayed.model.named_parameters()}
    rates = {names[id(p)]: group['initial_lr'] for group in decayed.optimizer.param_groups for p in group['params']}
    assert rates['generator.output.weight'] == pytest.approx(3e-4)
    assert rates['encoder.layers.1.feed_forward.layer1.weight'] == pytest.approx(1.5e-4)
    assert rates['src_embed.weight'] == pytest.approx(3.75e-5)
