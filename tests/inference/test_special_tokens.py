"""A trained run that has special tokens around each window."""
import math

import pytest
import torch
from support.project import Project
from torch.nn import functional

from labml_mlm import FillMask
from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Batch
from labml_mlm.evaluation.evaluate import AllWindows, evaluate, read_batches

CLS, SEP, MASK = 2, 3, 4
LEARN = ['transformer=bert', 'transformer.n_layers=1', 'd_model=32', 'transformer.n_heads=4', 'seq_len=16',
         'batch_size=16', 'epochs=2', 'n_prompts=0', 'checkpoint_interval=none']


@pytest.fixture(scope='module')
def bert(tmp_path_factory, fork_server):
    project = Project(tmp_path_factory.mktemp('bert'), fork_server)
    result = project.run(f'text_path={project.text}', *LEARN, env={'RUN_UUID': 'feed'})
    assert result.returncode == 0, result.stderr
    return FillMask.load(project.path / 'logs/test/feed')


@pytest.fixture
def wrapped(bert):
    """Token ids of a text with special tokens around it, `[seq_len]`."""
    def wrapped(text):
        ids = [MASK if part is None else part for piece in text.split('[MASK]')
               for part in (None, *bert.pretrained.tokenizer.encode(piece).tolist())][1:]
        return torch.tensor([CLS, *ids, SEP])
    return wrapped


def test_fill_mask_predicts_with_special_tokens_around_the_text(bert, wrapped):
    texts = ['the qu[MASK]ck', '[MASK]he lazy do[MASK]']
    for text, filled in zip(texts, bert(texts, top=3), strict=True):
        ids = wrapped(text)
        assert torch.equal(bert.ids(text), ids)
        with torch.no_grad():
            logits = bert.pretrained.model.predict(ids[:, None])[:, 0]
        best = logits[ids == MASK].index_fill(1, torch.arange(5), -torch.inf).softmax(-1).topk(3)
        assert [[token for token, _ in mask] for mask in filled.masks] == \
            [[bert.pretrained.tokenizer.tokens[i] for i in row] for row in best.indices.tolist()]
        torch.testing.assert_close(torch.tensor([[p for _, p in mask] for mask in filled.masks]), best.values)
        assert len(filled.filled) == len(text.replace('[MASK]', 'x')) and '[' not in filled.filled


def test_features_are_means_over_special_tokens_too(bert, wrapped):
    trained = bert.pretrained
    for text in ('the quick', 'o'):
        ids = wrapped(text)
        assert torch.equal(trained.ids(text), ids)
        with torch.no_grad():
            hidden = trained.model.encode(ids[:, None])[:, 0]
        torch.testing.assert_close(trained.encode(text, pooling='none')[0], hidden)
        torch.testing.assert_close(trained.encode(text)[0], hidden.mean(0))


def test_long_and_empty_and_unknown_texts_are_refused(bert):
    trained = bert.pretrained
    assert len(trained.ids('o' * 510)) == 512
    with pytest.raises(UserError, match='has 513 tokens, special ones included, and the model takes at most 512'):
        trained.ids('o' * 511)
    with pytest.raises(UserError, match='the text is empty'):
        trained.ids('')
    with pytest.raises(UserError, match="does not know 'X'"):
        trained.ids('X')


def test_special_tokens_are_neither_evaluated_nor_counted(bert):
    trained = bert.pretrained
    text = torch.from_numpy(trained.tokenizer.encode('the quick brown fox jumps over the lazy dog\n' * 5)).long()
    batches = list(AllWindows(text, seq_len=16, batch_size=3, template=trained.configs._template))
    assert [tuple(batch.tokens.shape) for batch in batches] == [(16, 3)] * 5 + [(12, 1)]
    found = torch.cat([batch.tokens[1:-1].T.flatten() for batch in batches])
    assert found.tolist() == text.tolist()
    assert all((batch.tokens[0] == CLS).all() and (batch.tokens[-1] == SEP).all() for batch in batches)
    result = evaluate(trained, batches, is_pseudo=True)

    trained.configs.valid_mlm.generator.manual_seed(0)
    losses, labels, log_p = [], [], 0.
    for batch in batches:
        masked, of_batch = trained.configs.valid_mlm(batch.tokens)
        with torch.no_grad():
            logits = trained.model.predict(masked)
        labels.append(of_batch[of_batch > 0])
        losses.append(functional.cross_entropy(logits[of_batch > 0], labels[-1], reduction='none'))
        for window in batch.tokens.T:
            # A copy of the window for each of its tokens; `[seq_len, n]`
            positions = torch.arange(1, len(window) - 1)
            copies = window[:, None].repeat(1, len(positions))
            copies[positions, positions - 1] = MASK
            with torch.no_grad():
                logits = trained.model.predict(copies)[positions, positions - 1]
            log_p += logits.log_softmax(-1).gather(1, window[positions][:, None]).sum().item()
    labels = torch.cat(labels)
    assert (result.n_tokens, result.n_masked, result.n_unknown) == (len(text), len(labels), 0)
    assert result.loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert result.pseudo_perplexity == pytest.approx(math.exp(-log_p / len(text)), rel=1e-4)
    frequencies = text.bincount().double() / len(text)
    assert result.baselines['unigram'].loss == pytest.approx(-frequencies[labels].log().mean().item())


@pytest.mark.parametrize('packing', ['stream', 'documents'])
def test_texts_are_read_with_special_tokens_around_windows(bert, tmp_path, packing, monkeypatch):
    trained = FillMask.load(bert.pretrained.checkpoint.path).pretrained
    trained.configs.packing = packing
    texts = ['the quick fox\n', 'over the lazy dog jumps the fox\n', 'the dog\n']
    (tmp_path / 'texts').mkdir()
    for i, text in enumerate(texts):
        (tmp_path / f'texts/{i}.txt').write_text(text)
    batches = read_batches([str(tmp_path / 'texts')], trained, tmp_path / 'tokens')
    read = list(batches)
    assert all(isinstance(batch, Batch) and (batch.tokens[0] == CLS).all() for batch in read)
    n = sum(map(len, texts))
    # Between documents that run on, `[SEP]` is part of the text, as in training
    assert evaluate(trained, batches).n_tokens == sum(batch.n_tokens for batch in read) == \
        (n + len(texts) if packing == 'stream' else n)


def test_validation_has_the_figures_of_the_run(bert):
    trained = FillMask.load(bert.pretrained.checkpoint.path).pretrained
    result = evaluate(trained, trained.validation_batches())
    assert result.loss == pytest.approx(trained.checkpoint.valid['loss'], rel=1e-5)
    assert result.accuracy == pytest.approx(trained.checkpoint.valid['accuracy'])
