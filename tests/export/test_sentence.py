"""The masked sentence with which tokens are compared."""
import pytest

import labml_mlm
from labml_mlm.common.errors import UserError
from labml_mlm.export import sentence as sentence_module
from labml_mlm.export.sentence import masked_sentence


@pytest.fixture
def of(models, monkeypatch):
    """The sentence of a model whose validation text begins with `text`."""
    def of(text: str, name: str = 'esm'):
        monkeypatch.setattr(sentence_module, '_beginning', lambda trained: text)
        return masked_sentence(models[name])
    return of


@pytest.mark.parametrize('text, masked', [
    ('the quick brown fox', 'the quick [MASK] fox'), ('the\n fox\tover', 'the [MASK] over'),
    # Without spaces, a character
    ('abcdefg', 'abc[MASK]efg'), ('abc def', 'abc[MASK]def')])
def test_the_word_in_the_middle_is_masked(of, models, text, masked):
    found = of(text)
    assert found.text == masked
    assert found.ids.tolist() == models['esm'].masked_ids(masked.split('[MASK]')).tolist()


@pytest.mark.parametrize('text, name, message', [
    ('', 'esm', 'its beginning is too short'), ('a', 'esm', 'its beginning is too short'),
    ('abcdefg', 'roberta', 'its beginning is too short'),
    ('the [SEP] quick fox over', 'esm', 'the name of a special token'), ('§ the fox over', 'esm', "'§' in it is not")])
def test_what_cannot_be_compared_is_said(of, text, name, message):
    with pytest.raises(UserError, match=message.replace('[', r'\[')):
        of(text, name)


def test_it_is_of_one_document(exports):
    """Of packed documents, the first of the first window."""
    trained = labml_mlm.load(exports.path / 'logs/test/beef')
    batch = trained.configs.batch_reader(next(iter(trained.validation_batches())), is_own=False)
    own = trained.tokenizer.decode(batch.tokens[:, 0][batch.document_ids[:, 0] == batch.document_ids[0, 0]].tolist())
    words = own.replace('[CLS]', '').replace('[SEP]', '').split()
    before, after = masked_sentence(trained).text.split('[MASK]')
    assert [*before.split(), *after.split()] == words[:len(words) // 2] + words[len(words) // 2 + 1:]


def test_an_unreadable_text_is_said(run, monkeypatch):
    def fail():
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(run, 'validation_batches', fail)
    with pytest.raises(UserError, match='it cannot be read: Permission denied'):
        masked_sentence(run)
