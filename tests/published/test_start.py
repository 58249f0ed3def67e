"""What a run can go on from."""
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.published import SIZES, VOCABULARY, edit_config, items_of, make, save, word_pieces

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.inference.loading import load
from labml_mlm.published.start import Loaded, PublishedEncoder, TrainedModel, find_source

RUN = 'c0efacb0c0efacb0c0efacb000000001'


def edit_weights(folder, change):
    weights = load_file(folder / 'model.safetensors')
    save_file(change(weights), folder / 'model.safetensors')


def run_values(folder, **given):
    return PublishedEncoder(folder).run_values({'seq_len': 16, **given}, MLMConfigs())


def test_folder_says_what_the_run_is(folder):
    values = run_values(folder, epochs=3)
    transformer = {name.removeprefix('transformer.'): value for name, value in values.items()
                   if name.startswith('transformer.')}
    assert {name: value for name, value in values.items() if not name.startswith('transformer.')} == {
        'transformer': 'bert', 'd_model': 16, 'n_tokens': len(VOCABULARY), 'init_from': str(folder), 'seq_len': 16,
        'epochs': 3, 'tokenizer': 'file', 'add_special_tokens': True, 'optimizer.learning_rate': 3e-4}
    assert {'d_model': 16, **transformer}.items() >= SIZES.items()


@pytest.mark.parametrize('given', [
    {'transformer.dropout': 0.3}, {'transformer.attn_dropout': 0.3}, {'transformer.seed': 4}, {'d_model': 16},
    {'transformer': 'bert'}, {'transformer.activation': 'gelu'}, {'batch_size': 4}, {'seq_len': 32}])
def test_what_weights_do_not_depend_on_may_be_given(folder, given):
    assert run_values(folder, **given).items() >= given.items()


@pytest.mark.parametrize('given, rate', [
    ({'optimizer': 'muon'}, 1e-3), ({'optimizer.learning_rate': 0.1}, 0.1),
    # Another scale
    ({'optimizer.optimizer': 'SGD'}, None)])
def test_learning_rate_is_for_an_encoder_that_is_trained(folder, given, rate):
    assert run_values(folder, **given).get('optimizer.learning_rate') == rate


@pytest.mark.parametrize('given', [{'vocab_size': 300}, {'token_pattern': 'code'}, {'max_token_length': 5},
                                   {'tokenizer_sample': 10}])
def test_what_is_for_a_tokenizer_that_is_trained_is_refused(folder, given):
    [(name, value)] = given.items()
    with pytest.raises(UserError, match=f'`{name}={value}` is for a tokenizer that is trained'):
        run_values(folder, **given)
    assert run_values(folder, tokenizer='bpe', **given)[name] == value


@pytest.mark.parametrize('given, message', [
    ({'d_model': 32}, '`d_model=32` contradicts the weights of {}: there it is 16'),
    ({'transformer': 'roberta'}, '`transformer=roberta` contradicts the weights of {}: there it is bert'),
    ({'transformer': 'mlm'}, '`transformer=mlm` contradicts'),
    ({'n_tokens': 100}, '`n_tokens=100` contradicts'),
    ({'transformer.n_layers': 3}, '`transformer.n_layers=3` contradicts the weights of {}: there it is 2'),
    ({'transformer.n_heads': 4}, '`transformer.n_heads=4` contradicts'),
    ({'transformer.activation': 'relu'}, '`transformer.activation=relu` contradicts'),
    ({'transformer.norm_eps': 1e-5}, '`transformer.norm_eps=1e-05` contradicts'),
    ({'transformer.d_model': 32}, '`transformer.d_model=32` contradicts'),
    ({'seq_len': 33}, 'seq_len=33 is longer than the 32 positions of {}'),
])
def test_what_contradicts_the_weights_is_refused_by_name(folder, given, message):
    with pytest.raises(UserError, match=re.escape(message.format(folder))):
        run_values(folder, **given)


def test_seq_len_of_a_class_counts_like_a_given_one(folder):
    class Long(MLMConfigs):
        seq_len: int = 48

    with pytest.raises(UserError, match='seq_len=48 is longer than the 32 positions'):
        PublishedEncoder(folder).run_values({}, Long())


def test_encoder_without_a_head_gets_a_new_one(tmp_path):
    source = PublishedEncoder(save(tmp_path / 'alone', has_head=False))
    model, before = (make('bert', **items_of(source)) for _ in range(2))
    assert source.load_weights(model) == Loaded(has_head=False, unused=[])
    of_folder, _ = source.state()
    for name, weight in model.named_parameters():
        assert torch.equal(weight, of_folder.get(name, before.get_parameter(name)))
        assert (name in of_folder) != name.startswith('generator.')
    # Tied to the embeddings of the folder
    embeddings = source.folder.weights['embeddings.word_embeddings.weight']
    assert torch.equal(model.generator.decoder.weight, embeddings)
    assert model.generator.decoder.weight is model.src_embed.tokens.weight


def test_weights_that_are_not_used_are_listed(folder):
    extra = {'classifier.weight': torch.zeros(2, 16), 'bert.embeddings.position_ids': torch.arange(32)}
    edit_weights(folder, lambda weights: weights | extra)
    source = PublishedEncoder(folder)
    assert source.load_weights(make('bert', **items_of(source))) == Loaded(has_head=True, unused=['classifier.weight'])


def test_missing_weights_of_the_encoder_are_listed(folder):
    gone = ['bert.embeddings.LayerNorm.bias', 'bert.encoder.layer.1.output.dense.weight']
    edit_weights(folder, lambda weights: {name: weight for name, weight in weights.items() if name not in gone})
    source = PublishedEncoder(folder)
    with pytest.raises(UserError) as e:
        source.load_weights(make('bert', **items_of(source)))
    assert str(e.value) == (f'{folder} lacks weights of the encoder: src_embed.norm.bias, '
                            'encoder.layers.1.feed_forward.2.weight')


def test_part_of_a_head_is_refused(folder):
    edit_weights(folder, lambda weights: {name: weight for name, weight in weights.items()
                                          if name != 'cls.predictions.bias'})
    source = PublishedEncoder(folder)
    with pytest.raises(UserError, match='has a part of a head only: it lacks generator.decoder.bias'):
        source.load_weights(make('bert', **items_of(source)))


def test_config_that_contradicts_the_weights_is_refused(folder):
    edit_config(folder, intermediate_size=25)
    source = PublishedEncoder(folder)
    with pytest.raises(UserError, match=re.escape('encoder.layers.0.feed_forward.0.weight has shape [24, 16], and in '
                                                  'the model it has [25, 16]')):
        source.load_weights(make('bert', **items_of(source)))


def test_tokenizer_with_more_tokens_than_embeddings_is_refused(folder):
    tokenizer = word_pieces()
    tokenizer.add_tokens(['covid', 'python'])
    tokenizer.save(str(folder / 'tokenizer.json'))
    with pytest.raises(UserError, match=f'has {len(VOCABULARY) + 2} tokens, and there are embeddings of '
                                        f'{len(VOCABULARY)} only'):
        run_values(folder)


def test_more_embeddings_than_tokens_are_padding(tmp_path):
    """Many vocabularies are padded to a multiple of 64."""
    model = make('bert', n_tokens=128, **SIZES)
    folder = save(tmp_path / 'padded', model)
    assert run_values(folder)['n_tokens'] == 128
    trained = load(folder, device='cpu')
    assert trained.tokenizer.n_tokens == len(VOCABULARY)
    torch.testing.assert_close(trained.encode(['the fox'], pooling='none')[0],
                               model.encode(torch.tensor([2, 5, 8, 3])[:, None])[:, 0], rtol=1e-6, atol=1e-6)


def test_folder_without_a_tokenizer_needs_one(tmp_path):
    folder = save(tmp_path / 'bare', is_tokenized=False)
    with pytest.raises(UserError, match='has no tokenizer: give tokenizer=file and tokenizer_path=PATH'):
        run_values(folder)
    word_pieces().save(str(tmp_path / 'own.json'))
    values = run_values(folder, tokenizer='file', tokenizer_path=str(tmp_path / 'own.json'))
    assert (values['tokenizer_path'], values['n_tokens']) == (str(tmp_path / 'own.json'), len(VOCABULARY))
    with pytest.raises(UserError, match='has no tokenizer'):
        load(folder)


def test_init_from_without_train_is_refused(build, folder):
    with pytest.raises(UserError, match='init_from is read by labml_mlm.train, which nothing has called'):
        build(init_from=str(folder))


@pytest.fixture
def logs(tmp_path):
    """A project's folder of experiments, with one run."""
    folder = tmp_path / 'logs/test' / RUN
    folder.parent.mkdir(parents=True)
    folder.symlink_to(Path(__file__).parent.parent / f'fixtures/c0efacb/logs/test/{RUN}')
    return tmp_path / 'logs'


def test_source_is_a_folder_a_run_or_a_checkpoint(logs, folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert find_source('tiny', logs, MLMConfigs()).path == Path('tiny')
    assert isinstance(find_source(str(folder), logs, MLMConfigs()), PublishedEncoder)
    for name in (RUN, 'c0ef', 'last', str(logs / 'test' / RUN)):
        assert isinstance(find_source(name, logs, MLMConfigs()), TrainedModel)
    at = logs / 'test' / RUN / 'checkpoints/7168'
    assert find_source(str(at), logs, MLMConfigs()).path == at.resolve()


@pytest.mark.parametrize('model', [5, None, {'$tensor': 'x'}, {'src_embed.tokens.weight': 'x'}, {'$items': [[1, {}]]},
                                   {'$items': [5]}])
def test_weights_that_no_run_writes_are_refused_in_a_line(logs, monkeypatch, model):
    source = find_source(RUN, logs, MLMConfigs())
    monkeypatch.setitem(source._checkpoint.metadata, 'model', model)
    with pytest.raises(UserError, match='^the model of .* (is damaged: |has what is no weight$)'):
        source.state()


def test_name_of_both_a_run_and_a_folder_is_refused(logs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('c0ef', 'last'):
        folder = save(tmp_path / name)
        with pytest.raises(UserError, match=f'{name} is both a run and a folder'):
            find_source(name, logs, MLMConfigs())
        with pytest.raises(UserError, match=f'{name} is both a run and a folder'):
            load(name, folder=logs.parent)
        assert isinstance(find_source(f'./{name}', logs, MLMConfigs()), PublishedEncoder)
        assert isinstance(find_source(str(folder), logs, MLMConfigs()), PublishedEncoder)


def test_what_is_neither_is_refused(logs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='init_from=empty: the folder is neither one that save_pretrained wrote'):
        find_source('empty', logs, MLMConfigs())
    with pytest.raises(UserError, match='there is no run nowhere'):
        find_source('nowhere', logs, MLMConfigs())
    with pytest.raises(UserError, match='there is no such folder'):
        find_source('no/where', logs, MLMConfigs())


@pytest.mark.parametrize('name, folder', [('bert-base-uncased', 'bert-base-uncased'),
                                          ('google-bert/bert-base-uncased', 'bert-base-uncased')])
def test_a_name_of_a_hub_is_told_what_to_do(logs, name, folder):
    with pytest.raises(UserError) as e:
        find_source(name, logs, MLMConfigs())
    assert str(e.value).startswith(f'init_from={name}: there is no such folder')
    assert str(e.value).endswith(f'download it first, with `hf download {name} --local-dir {folder}`, and give '
                                 f'init_from={folder}')


@pytest.mark.parametrize('name', ['0123abcd', './models', '../models', '~/models', '/models/bert'])
def test_what_is_no_name_of_a_hub_is_told_nothing_of_it(logs, name):
    with pytest.raises(UserError) as e:
        find_source(name, logs, MLMConfigs())
    assert 'Hugging Face' not in str(e.value)


def test_an_address_is_refused_as_it_was_given(logs):
    address = 'https://huggingface.co/google-bert/bert-base-uncased'
    with pytest.raises(UserError, match=f'^{address} is an address, and must be a path: download it first'):
        find_source(address, logs, MLMConfigs())


def test_values_of_a_run_are_those_of_its_model(logs):
    source = find_source(RUN, logs, MLMConfigs())
    computed = source._snapshot['computed']
    values = source.run_values({'text_path': 'other.txt', 'seq_len': 8}, MLMConfigs())
    assert values['transformer.n_layers'] == computed['transformer.n_layers']
    assert 'epochs' not in values and values['text_path'] == 'other.txt'
    for given in ({'transformer.n_layers': 9}, {'transformer.ffn.activation': 'ReLU'}, {'d_model': 9},
                  {'transformer.encoder_attn': 'mha'}, {'transformer': 'bert'}):
        with pytest.raises(UserError, match=f'`{next(iter(given))}=.*` contradicts the weights'):
            source.run_values(given, MLMConfigs())
