"""Filling in masks from Python."""
import pytest
import torch

from labml_mlm import FillMask
from labml_mlm.common.errors import UserError


def test_obvious_letters_are_filled_in(fill_mask):
    filled = fill_mask('t[MASK]e quick br[MASK]wn fox jum[MASK]s over')
    assert filled.filled == 'the quick brown fox jumps over'
    assert filled.text == 't[MASK]e quick br[MASK]wn fox jum[MASK]s over'
    assert [mask[0].token for mask in filled.masks] == ['h', 'o', 'p']
    for mask in filled.masks:
        assert len(mask) == 5
        probabilities = [prediction.probability for prediction in mask]
        assert probabilities == sorted(probabilities, reverse=True) and 0.5 < sum(probabilities) <= 1 + 1e-6


def test_masks_at_the_ends_and_side_by_side(fill_mask):
    assert fill_mask('[MASK]he lazy do[MASK]').filled == 'the lazy dog'
    assert len(fill_mask('qui[MASK][MASK]').filled) == 5
    assert len(fill_mask('[MASK]').masks) == 1


def test_special_tokens_are_never_predicted(fill_mask):
    predictions = fill_mask('qu[MASK]ck', top=1000).masks[0]
    vocabulary = fill_mask.pretrained.tokenizer.tokens
    assert sorted(prediction.token for prediction in predictions) == sorted(vocabulary[5:])
    assert sum(prediction.probability for prediction in predictions) == pytest.approx(1)


def test_batches_of_texts_are_filled_in_like_single_texts(fill_mask, monkeypatch):
    sentence = 'the quick brown fox jumps over the lazy dog\n' * 3
    texts = [sentence[i:i + 2 + i % 37] + '[MASK]' + sentence[i + 3 + i % 37:i + 5 + 3 * (i % 11)] for i in range(60)]
    # Several batches, with padding; in the package, the module is hidden by the function of its name
    monkeypatch.setattr('labml_mlm.inference.pretrained.BATCH_TOKENS', 300)
    together = fill_mask(texts)
    assert [filled.text for filled in together] == texts
    for text, filled in zip(texts, together, strict=True):
        alone = fill_mask(text)
        assert alone.filled == filled.filled
        for one, other in zip(alone.masks, filled.masks, strict=True):
            assert [p.probability for p in one] == pytest.approx([p.probability for p in other], abs=1e-5)


def test_predictions_are_those_of_the_model(fill_mask):
    trained = fill_mask.pretrained
    ids = torch.from_numpy(trained.tokenizer.encode('the qui_k')).long()
    ids[7] = 4
    with torch.no_grad():
        logits = trained.model.predict(ids[:, None])[7, 0]
    logits[:5] = -torch.inf
    p, i = logits.softmax(-1).max(-1)
    [best] = fill_mask('the qui[MASK]k', top=1).masks[0]
    assert best.token == trained.tokenizer.tokens[i]
    assert best.probability == pytest.approx(p.item(), rel=1e-4)


@pytest.mark.parametrize('text, message', [
    ('the quick', r"there is no \[MASK\] in 'the quick'"), ('', r"there is no \[MASK\] in ''"),
    ('the [musk]', 'there is no'), ('THE [MASK] é', "the model does not know 'E', 'H', 'T', 'é'"),
])
def test_texts_without_masks_or_with_unknown_characters_are_refused(fill_mask, text, message):
    with pytest.raises(UserError, match=message):
        fill_mask(['the [MASK]', text])


def test_top_must_be_positive(fill_mask):
    with pytest.raises(UserError, match='top=0: it must be at least 1'):
        fill_mask('[MASK]', top=0)


def test_empty_list_of_texts(fill_mask):
    assert fill_mask([]) == []


def test_text_longer_than_the_model_allows_is_refused(trained):
    result = trained.run(f'text_path={trained.text}', 'transformer.n_layers=1', 'd_model=16', 'epochs=1', 'seq_len=16',
                         'batch_size=16', 'n_prompts=0', 'transformer.encoder_attn=sdpa',
                         'transformer.src_embed=learned_pos', env={'RUN_UUID': 'short'})
    assert result.returncode == 0, result.stderr
    fill_mask = FillMask.load(trained.path / 'logs/test/short')
    assert fill_mask('the ' * 1249 + 'qu[MASK]').filled
    with pytest.raises(UserError, match=r'the text has 5,001 tokens, and the model takes at most 5,000'):
        fill_mask('the ' * 1250 + '[MASK]')
