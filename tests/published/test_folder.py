"""Folders of `save_pretrained`, and bad input."""
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.published import items_of, load_model, make, save, write_json

from labml_mlm.common.errors import UserError
from labml_mlm.published.folder import PublishedFolder, is_published
from labml_mlm.published.start import PublishedEncoder

WEIGHTS, INDEX, PICKLE = 'model.safetensors', 'model.safetensors.index.json', 'pytorch_model.bin'


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def logits(folder):
    model = load_model(PublishedEncoder(folder))
    with torch.no_grad():
        return model.predict(torch.arange(5, 25)[:, None])


def as_pickle(folder, content=None, **how):
    """Puts a pickle in place of the weights."""
    torch.save(load_file(folder / WEIGHTS) if content is None else content, folder / PICKLE, **how)
    (folder / WEIGHTS).unlink()


def shard(folder):
    """Puts three files in place of the weights; their names."""
    weights = sorted(load_file(folder / WEIGHTS).items())
    files = [f'model-0000{i}-of-00003.safetensors' for i in (1, 2, 3)]
    for i, file in enumerate(files):
        save_file(dict(weights[i::3]), folder / file)
    write_json(folder / INDEX, {'metadata': {}, 'weight_map': {name: files[i % 3] for i, (name, _) in
                                                               enumerate(weights)}})
    (folder / WEIGHTS).unlink()
    return files


def test_folder_has_its_config_and_weights(folder):
    read = PublishedFolder(folder)
    assert read.config['model_type'] == 'bert'
    assert_equal(read.weights, load_file(folder / WEIGHTS))
    assert is_published(folder) and not is_published(folder.parent)


def test_sharded_weights_are_those_of_one_file(folder):
    whole = PublishedFolder(folder).weights
    shard(folder)
    assert_equal(PublishedFolder(folder).weights, whole)


@pytest.mark.parametrize('how', [{}, {'_use_new_zipfile_serialization': False}])
def test_pickled_weights_are_those_of_safetensors(folder, how):
    whole = PublishedFolder(folder).weights
    as_pickle(folder, **how)
    assert_equal(PublishedFolder(folder).weights, whole)


def test_safetensors_come_first(folder):
    (folder / PICKLE).write_bytes(b'not read')
    assert PublishedFolder(folder).weights


def test_old_names_of_norms_are_read(folder):
    before, weights = logits(folder), load_file(folder / WEIGHTS)
    renamed = {name.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta'): tensor
               for name, tensor in weights.items()}
    assert len(renamed.keys() - weights.keys()) == 12
    save_file(renamed, folder / WEIGHTS)
    assert torch.equal(logits(folder), before)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('is_pickled', [False, True])
def test_weights_of_another_precision_are_read_as_such_in_fp32(folder, dtype, is_pickled):
    rounded = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(rounded, folder / WEIGHTS)
    if is_pickled:
        as_pickle(folder)
    weights = PublishedFolder(folder).weights
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert_equal(weights, {name: tensor.float() for name, tensor in rounded.items()})
    assert logits(folder).dtype == torch.float32


def test_buffers_of_integers_stay_integers(folder):
    weights = {**load_file(folder / WEIGHTS), 'bert.embeddings.position_ids': torch.arange(32)[None]}
    save_file(weights, folder / WEIGHTS)
    source = PublishedEncoder(folder)
    assert source.folder.weights['bert.embeddings.position_ids'].dtype == torch.int64
    # They are constants, and nobody misses them
    assert source.load_weights(make('bert', **items_of(source))).unused == []


def test_hub_cache_with_links_into_blobs(folder, tmp_path):
    before, cache = logits(folder), tmp_path / 'models--a--b'
    snapshot = cache / 'snapshots/0123abc'
    snapshot.mkdir(parents=True)
    (cache / 'blobs').mkdir()
    shard(folder)
    for i, path in enumerate(sorted(folder.iterdir())):
        # Nothing but the link tells what a file is
        shutil.move(path, cache / f'blobs/{i:040x}')
        (snapshot / path.name).symlink_to(f'../../blobs/{i:040x}')
    assert is_published(snapshot)
    assert torch.equal(logits(snapshot), before)
    assert PublishedEncoder(snapshot).tokenizer.n_tokens == 65
    as_link = tmp_path / 'link'
    as_link.symlink_to(snapshot)
    assert torch.equal(logits(as_link), before)

    (cache / 'blobs' / f'{3:040x}').unlink()
    with pytest.raises(UserError, match=r'-of-00003.safetensors is missing'):
        PublishedFolder(snapshot)


def test_weights_of_a_link_to_nothing_are_missing(folder):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to('../blobs/0')
    with pytest.raises(UserError, match=r'model\.safetensors is missing'):
        PublishedFolder(folder)


def truncated(path, n=1000):
    path.write_bytes(path.read_bytes()[:-n])


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('how', [{}, {'_use_new_zipfile_serialization': False}])
def test_code_in_a_pickle_is_refused_and_never_runs(folder, tmp_path, how):
    as_pickle(folder, {**load_file(folder / WEIGHTS), 'code': Code(tmp_path / 'ran')}, **how)
    with pytest.raises(UserError, match=rf'{PICKLE} has more than tensors in it, such as code, and is not read'):
        PublishedFolder(folder)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_plain_pickle_with_code_is_refused_and_never_runs(folder, tmp_path):
    (folder / WEIGHTS).unlink()
    (folder / PICKLE).write_bytes(pickle.dumps({'weight': Code(tmp_path / 'ran')}))
    with pytest.raises(UserError, match=rf'{PICKLE} has more than tensors in it'):
        PublishedFolder(folder)
    assert not (tmp_path / 'ran').exists()


LFS_POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 440449768\n'


def remove_config(folder):
    (folder / 'config.json').unlink()


def put(name, content):
    def change(folder):
        (folder / WEIGHTS).unlink(missing_ok=not name.startswith('config'))
        (folder / name).write_bytes(content)
    return change


def drop_a_shard(folder):
    (folder / shard(folder)[1]).unlink()


def truncate_a_shard(folder):
    truncated(folder / shard(folder)[2])


def pickle_of(content):
    return lambda folder: as_pickle(folder, content)


def not_finite(value):
    def change(folder):
        weights = load_file(folder / WEIGHTS)
        weights['bert.encoder.layer.1.output.dense.bias'][3] = value
        save_file(weights, folder / WEIGHTS)
    return change


@pytest.mark.parametrize('change, message', [
    (shutil.rmtree, 'tiny is not a folder: it must be one that save_pretrained wrote'),
    (remove_config, 'tiny has no config.json'),
    (put('config.json', b'{"model_type": "bert",'), 'config.json: Expecting'),
    (put('config.json', b'[' * 100_000), 'cannot read'),
    (put('config.json', b'\xff\xfe'), 'cannot read'),
    (put('config.json', b'["bert"]'), 'config.json is not an object in JSON'),
    (lambda folder: (folder / WEIGHTS).unlink(),
     'tiny has no weights: neither model.safetensors, model.safetensors.index.json nor pytorch_model.bin'),
    (lambda folder: truncated(folder / WEIGHTS), f'{WEIGHTS} is damaged'),
    (lambda folder: truncated(folder / WEIGHTS, -7), f'{WEIGHTS} is damaged'),
    (put(WEIGHTS, b''), f'{WEIGHTS} is damaged'),
    (put(WEIGHTS, LFS_POINTER), f'{WEIGHTS} is damaged'),
    (lambda folder: (as_pickle(folder), truncated(folder / PICKLE)), f'{PICKLE} is damaged'),
    (lambda folder: (as_pickle(folder, _use_new_zipfile_serialization=False), truncated(folder / PICKLE)),
     f'{PICKLE} is damaged'),
    (put(PICKLE, b''), f'{PICKLE} is damaged'),
    (put(PICKLE, LFS_POINTER), f'{PICKLE} is damaged'),
    (pickle_of([torch.zeros(2)]), f'{PICKLE} is not a dictionary of tensors'),
    (pickle_of({'model': {'weight': torch.zeros(2)}}), f'{PICKLE} is not a dictionary of tensors'),
    (pickle_of({1: torch.zeros(2)}), f'{PICKLE} is not a dictionary of tensors'),
    (drop_a_shard, 'model-00002-of-00003.safetensors is missing'),
    (truncate_a_shard, 'model-00003-of-00003.safetensors is damaged'),
    (put(INDEX, b'{}'), f'{INDEX} has no weight_map'),
    (put(INDEX, b'{"weight_map": {"a": 1}}'), f'{INDEX} has no weight_map'),
    *[(not_finite(value), f'{WEIGHTS}: bert.encoder.layer.1.output.dense.bias has values that are not finite')
      for value in (float('nan'), float('inf'))],
])
def test_bad_input_gives_one_message(folder, change, message):
    change(folder)
    with pytest.raises(UserError) as e:
        PublishedFolder(folder)
    assert message in str(e.value)
    assert '\n' not in str(e.value)


def test_shards_outside_the_folder_are_not_read(folder):
    files = shard(folder)
    outside = folder.parent / files[0]
    shutil.move(folder / files[0], outside)
    index = (folder / INDEX).read_text()
    (folder / INDEX).write_text(index.replace(files[0], f'../{files[0]}'))
    with pytest.raises(UserError, match='is missing'):
        PublishedFolder(folder)


def test_a_file_is_no_folder(folder):
    with pytest.raises(UserError, match='is not a folder'):
        PublishedFolder(folder / WEIGHTS)


def test_encoder_alone_has_no_prefix(tmp_path):
    weights = PublishedFolder(save(tmp_path / 'alone', has_head=False)).weights
    assert 'embeddings.word_embeddings.weight' in weights
