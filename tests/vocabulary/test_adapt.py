"""Runs with another vocabulary than what they go on from."""

import re

import pytest
import torch
from support.project import assert_clean_failure
from support.published import VOCABULARY, save

from labml_mlm import load
from labml_mlm.published.start import PublishedEncoder
from labml_mlm.runs.checkpoint_folder import CheckpointFolder

# Weights stay as they begin; the text has words that the tokenizer lacks
TEXT = 'the fox identifies descriptors\nthe dog identifies descriptors too\n' * 200
STILL = ['init_from=tiny', 'batch_size=16', 'seq_len=16', 'n_prompts=0', 'max_steps=1', 'text_path=words.txt',
         'optimizer.learning_rate=1e-30', 'optimizer.weight_decay=0']


@pytest.fixture
def words(project):
    save(project.path / 'tiny')
    (project.path / 'words.txt').write_text(TEXT)
    return project


def go_on(project, *arguments):
    result = project.run(*STILL, *arguments, env={'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    checkpoint, _ = CheckpointFolder(project.path / 'logs/test/feed/checkpoints').last()
    return result.stdout, checkpoint.load_tensors('model')


def test_new_tokens_begin_as_the_mean_of_what_they_were_cut_into(words):
    out, weights = go_on(words, 'vocab_extend=3')
    assert re.search(r'\n3 tokens added: [\d.]+ → [\d.]+ tokens per word. Most gained by\n +\d+ × \w+: \d+ →', out)
    source = PublishedEncoder(words.path / 'tiny')
    state, _ = source.state()
    tokenizer = load(words.path / 'logs/test/feed').tokenizer
    for name in ('src_embed.tokens.weight', 'generator.decoder.bias'):
        assert torch.equal(weights[name][:len(VOCABULARY)], state[name])
        assert len(weights[name]) == len(VOCABULARY) + 3
        for i in range(len(VOCABULARY), len(VOCABULARY) + 3):
            token = tokenizer.tokenizer.id_to_token(i)
            # A part of a word is cut as in the word
            ids = source.tokenizer.encode('a' + token[2:] if token.startswith('##') else token)
            pieces = ids[1:] if token.startswith('##') else ids
            torch.testing.assert_close(weights[name][i], state[name][pieces].mean(dim=0), rtol=0, atol=1e-6)


def test_a_resumed_run_keeps_its_tokens(words):
    go_on(words, 'vocab_extend=3')
    (words.path / 'tiny/config.json').unlink()
    result = words.run('--resume', 'feed', 'max_steps=2')
    assert result.returncode == 0, result.stderr
    assert load(words.path / 'logs/test/feed', which='last').tokenizer.n_tokens == len(VOCABULARY) + 3


def test_tokens_that_two_tokenizers_have_keep_their_embeddings(words):
    out, weights = go_on(words, 'tokenizer=character')
    state, _ = PublishedEncoder(words.path / 'tiny').state()
    tokens = load(words.path / 'logs/test/feed').tokenizer.tokens
    embeddings = weights['src_embed.tokens.weight']
    assert len(embeddings) == len(tokens)
    # Special tokens by their role; in the old one a word has the space before it, and letters continue words
    assert torch.equal(embeddings[tokens.index('[MASK]')], state['src_embed.tokens.weight'][4])
    rows = [row.tolist() for row in state['src_embed.tokens.weight']]
    n_kept = sum(row.tolist() in rows for row in embeddings)
    assert f'Another tokenizer: {n_kept} of its {len(tokens)} tokens keep their embeddings' in out
    letters = [token for token in tokens if token.isalpha() and len(token) == 1]
    assert all(torch.equal(embeddings[tokens.index(letter)],
                           state['src_embed.tokens.weight'][VOCABULARY.index(f'##{letter}')]) for letter in letters)


@pytest.mark.parametrize('arguments, message', [
    (['vocab_extend=3', 'freeze=embeddings'], 'freeze=embeddings would leave the embeddings of new tokens'),
    (['tokenizer=character', 'freeze=layers:1'], 'freeze=layers:1 would leave the embeddings of new tokens'),
    (['vocab_extend=3', 'tokenizer=character'], 'vocab_extend=3 adds tokens to the BPE or WordPiece of init_from: '
                                                'leave out `tokenizer`')])
def test_what_does_not_go_together_is_refused(words, arguments, message):
    assert_clean_failure(words.run(*STILL, *arguments), 2, message)
    assert not list(words.path.glob('logs/*/*'))


def test_more_tokens_need_something_to_add_them_to(words):
    result = words.run('vocab_extend=3', 'text_path=words.txt')
    assert_clean_failure(result, 2, 'vocab_extend=3 adds tokens to those of init_from: give it, too')
