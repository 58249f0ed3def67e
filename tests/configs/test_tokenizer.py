import pytest
from support.project import SMALL_VALUES

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.tokenization.subword import SubwordTokenizer


@pytest.fixture
def path(build, tmp_path):
    tokenizer = build(tokenizer='bpe', vocab_size=280).tokenizer
    (tmp_path / 'my.json').write_text(next(iter(tokenizer.files.values())))
    return str(tmp_path / 'my.json')


def configs(text_path, attributes=(), **values):
    """Configs of a class of the user's with `attributes`."""
    class_ = type('Configs', (MLMConfigs,), {'__annotations__': {}, '__module__': __name__, **dict(attributes)})
    conf = class_()
    conf.set_values({'text_path': text_path, **SMALL_VALUES, **values})
    return conf


@pytest.mark.parametrize('attributes', [{}, {'tokenizer': 'bpe'}, {'tokenizer': 'character'}])
def test_tokenizer_path_alone_implies_file(text_path, path, attributes):
    tokenizer = configs(text_path, attributes, tokenizer_path=path).tokenizer
    assert isinstance(tokenizer, SubwordTokenizer) and tokenizer.n_tokens == 280


def test_in_a_class_it_does_too(text_path, path):
    assert configs(text_path, {'tokenizer_path': path}).tokenizer.n_tokens == 280


@pytest.mark.parametrize('attributes, values', [
    ({}, {}), ({'tokenizer_path': 'none.json'}, {'tokenizer': 'character'}),
])
def test_otherwise_the_default_is_as_it_was(text_path, attributes, values):
    assert configs(text_path, attributes, **values).tokenizer.kind == 'character'


@pytest.mark.parametrize('attributes, values, message', [
    ({}, {'tokenizer': 'bpe', 'tokenizer_path': 'x'}, 'tokenizer_path=x is for tokenizer=file, and this is bpe'),
    ({}, {'tokenizer': 'character', 'tokenizer_path': 'x'}, 'and this is character'),
    ({'tokenizer': 'bpe', 'tokenizer_path': 'x'}, {}, 'tokenizer_path=x is for tokenizer=file, and this is bpe'),
    ({}, {'vocab_size': 20}, 'vocab_size=20 is for tokenizer=grapheme, pattern, unigram, bpe, wordpiece or'),
    ({}, {'tokenizer_path': __file__, 'vocab_size': 20}, 'and this is file'),
    ({}, {'tokenizer_sample': 200}, 'tokenizer_sample=200 is for tokenizer=grapheme'),
])
def test_what_contradicts_is_refused(text_path, attributes, values, message):
    with pytest.raises(UserError) as e:
        _ = configs(text_path, attributes, **values).tokenizer
    assert message in str(e.value)


@pytest.mark.parametrize('tokenizer', ['character', 'bpe', 'file'])
def test_a_saved_tokenizer_is_taken_whatever_else_is_given(text_path, tokenizer):
    conf = configs(text_path, tokenizer=tokenizer, tokenizer_path='x', vocab_size=20)
    conf._saved_tokenizer = saved = object()
    assert conf.tokenizer is saved
