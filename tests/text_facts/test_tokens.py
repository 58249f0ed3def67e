"""What a tokenizer makes of a text."""
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from labml_mlm.data.documents import TextFiles
from labml_mlm.text_facts import tokens as module
from labml_mlm.text_facts.facts import read_facts
from labml_mlm.text_facts.tokens import token_facts
from labml_mlm.tokenization.base import SPECIAL_TOKENS
from labml_mlm.tokenization.character import CharacterTokenizer
from labml_mlm.tokenization.subword import SubwordTokenizer


@pytest.fixture
def facts_of(tmp_path):
    def facts_of(tokenizer, *texts):
        paths = [tmp_path / f'{i}.txt' for i in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text)
        files = TextFiles(paths, errors='replace')
        facts = read_facts(files)
        return token_facts(files, facts, tokenizer or CharacterTokenizer(facts.characters))
    return facts_of


@pytest.fixture
def word_pieces():
    """BERT's cleaning, and a small vocabulary."""
    pieces = [*SPECIAL_TOKENS, 'the', 'fox', 'in', '##ter', '##nation', '##al', '日', '本', '.']
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token='[UNK]'))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return SubwordTokenizer(tokenizer)


def test_tokens_of_characters(facts_of):
    found = facts_of(None, 'the fox\n' * 10)
    assert (found.n_tokens, found.vocabulary, found.characters_per_token) == (80, 13, 1.)
    assert (found.fertility, found.unknown_share, found.worst, found.messages) == (4., 0., [], [])
    # A separator after each of several documents
    assert facts_of(None, 'the fox\n', 'a fox\n').n_tokens == 16


def test_tokens_of_words(facts_of, word_pieces):
    found = facts_of(word_pieces, 'the international fox. ' * 4 + 'lemur fox ')
    # 7 of each of the four, and one that is not known
    assert found.n_tokens == 4 * 7 + 2
    assert found.fertility == pytest.approx(30 / 14)
    assert found.unknown_share == pytest.approx(1 / 30)
    [worst] = found.worst
    assert (worst.word, worst.n, len(worst.tokens)) == ('international', 4, 4)
    assert '1 of 30 tokens (3.33%) are [UNK], such as lemur' in found.messages


def test_what_normalisation_loses(facts_of, word_pieces):
    found = facts_of(word_pieces, 'The fox\u200b\u200d日本 ' * 3)
    assert found.altered == {'case': 3, 'invisible characters': 6}
    assert found.n_apart == 6
    assert any('is dropped' in message and 'U+200B' in message for message in found.messages)


def test_text_without_spaces_has_no_words(facts_of, word_pieces):
    assert facts_of(word_pieces, '日本' * 50).fertility is None


def test_long_text_is_sampled(facts_of, monkeypatch):
    monkeypatch.setattr(module, '_SAMPLE', 200_000)
    text = ''.join(f'line {i} of a text\n' for i in range(20_000))
    found = facts_of(None, text)
    assert found.is_estimate and 180_000 < found.n_sampled < 220_000
    assert found.n_tokens == pytest.approx(len(text), rel=1e-3)
    # From all over it
    assert all(any(f'line {i}' in part for part in found.sample) for i in range(2, 20))
    monkeypatch.setattr(module, '_SAMPLE', 10 ** 6)
    assert facts_of(None, text).n_tokens == len(text)


def test_words_take_no_more_memory_than_they_should(monkeypatch):
    monkeypatch.setattr(module, '_MOST', 100)
    words = module._Words()
    pieces = [('frequent word ' + ''.join(chr(97 + int(c)) for c in f'{i}') + '\n', False) for i in range(1000)]
    assert list(words.of_text(pieces, lambda n: None)) == pieces
    assert len(words.counts) <= 100
    assert [word for word, _ in words.counts.most_common(2)] == ['frequent', 'word']
