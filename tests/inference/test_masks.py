"""Texts with masks in them."""
from pathlib import Path

import pytest
from support.untrained import log_probabilities, roberta_like, tokenizer_of, untrained

from labml_mlm import FillMask
from labml_mlm.common.errors import UserError
from labml_mlm.inference.masks import Masks
from labml_mlm.inference.pretrained import Pretrained
from labml_mlm.runs.checkpoint import Checkpoint


def ids_of(masks, *tokens):
    return [masks.pretrained.tokenizer.tokens.index(token) for token in tokens]


@pytest.mark.parametrize('text', ['the [MASK] fox', 'the [mask] fox', 'the [Mask] fox', 'the <mask> fox',
                                  'the <MASK> fox'])
def test_the_mask_token_of_the_tokenizer_is_a_mask_in_any_case(text):
    masks = Masks(untrained(roberta_like()))
    masked = masks.read(text)
    assert masked.pieces == ('the ', ' fox') and masked.n_masks == 1
    assert masked.ids.tolist() == ids_of(masks, ' the', '<mask>', ' fox')
    assert masks.read(f'{text} [MASK]').n_masks == 2


def test_the_mask_of_another_tokenizer_is_text():
    masks = Masks(untrained(roberta_like()))
    with pytest.raises(UserError, match=r"there is no <mask> or \[MASK\] in 'the fox'"):
        masks.read('the fox')
    masks = Masks(untrained(tokenizer_of('character')))
    with pytest.raises(UserError, match=r"there is no \[MASK\] in 'a <mask>'"):
        masks.read('a <mask>')


def test_a_predicted_space_at_the_start_is_kept():
    masks = Masks(untrained(tokenizer_of('character')))
    assert masks.fill(masks.read('[MASK]fox'), ids_of(masks, ' ')) == ' fox'
    assert masks.fill(masks.read('[MASK][mask]x'), ids_of(masks, ' ', 'o')) == ' ox'
    masks = Masks(untrained(tokenizer_of('bpe')))
    assert masks.fill(masks.read('[MASK] fox'), ids_of(masks, ' the')) == ' the fox'
    # It is in no text: each word has it
    masks = Masks(untrained(tokenizer_of('wordpiece')))
    assert masks.fill(masks.read('[MASK] fox'), ids_of(masks, ' the')) == 'the fox'


def test_bytes_side_by_side_are_a_character():
    masks = Masks(untrained(tokenizer_of('bpe')))
    first, second = masks.pretrained.tokenizer.encode('é').tolist()
    assert masks.fill(masks.read('the [MASK][MASK] fox [MASK]'), [first, second, first]) == 'theé fox\ufffd'


def test_masked_positions_come_from_left_to_right(monkeypatch):
    # Parts of a batch
    monkeypatch.setattr('labml_mlm.inference.masks._LOGITS', 60)
    trained = untrained(tokenizer_of('character'))
    masks = Masks(trained)
    sequences = [masks.read(text).ids for text in ('[MASK]o[MASK]', 'the [MASK]', 'f[MASK]x and [MASK] dog')]
    found = [(number, position, log_p[row].double()) for numbers, positions, log_p in
             masks.log_probabilities(sequences) for row, (number, position) in
             enumerate(zip(numbers, positions, strict=True))]
    assert sorted((number, position) for number, position, _ in found) == [(0, 0), (0, 2), (1, 4), (2, 1), (2, 8)]
    for number in range(3):
        positions = [position for n, position, _ in found if n == number]
        assert positions == sorted(positions)
    for number, position, log_p in found:
        assert log_p.exp().tolist() == pytest.approx(log_probabilities(trained, sequences[number], position)
                                                     .exp().tolist(), abs=1e-6)


def test_unknown_parts_are_the_unknown_token_with_a_warning():
    fill_mask = FillMask(untrained(tokenizer_of('wordpiece')))
    message = r"^'É', '漢' are not in the vocabulary, and are \[UNK\] for the model$"
    with pytest.warns(UserWarning, match=message) as found:
        filled = fill_mask(['the [MASK] É 漢', 'the [MASK]'])
    assert [warning.filename for warning in found] == [__file__]
    assert [of_text.unknown for of_text in filled] == [('É', '漢'), ()]
    assert filled[0].filled.endswith(' É 漢')
    unknown = fill_mask.pretrained.tokenizer.special.unk
    assert fill_mask.ids('the [MASK] É').tolist().count(unknown) == 1


@pytest.mark.parametrize('kind, option, may_be_unknown', [
    ('wordpiece', 'wordpiece', True), ('wordpiece', 'file', True), ('grapheme', 'grapheme', False),
    ('bpe', 'bpe', False), ('character', 'character', False), ('character', 'file', False)])
def test_an_unknown_token_that_was_never_met_is_refused(kind, option, may_be_unknown):
    model = untrained(tokenizer_of(kind))
    snapshot = {'given': {'tokenizer': option} if option != 'character' else {}, 'defaults': {'tokenizer': 'character'}}
    run = Pretrained(model=model.model, tokenizer=model.tokenizer, configs=model.configs, about='a run',
                     checkpoint=Checkpoint(Path(), {'configs': snapshot}))
    assert run.has_trained_unknown == may_be_unknown
    if kind in ('grapheme', 'character'):
        with pytest.raises(UserError, match="the model does not know '漢', which is not in its vocabulary"):
            FillMask(run)('the [MASK] 漢')
    # What it goes on from may have met it
    run.source = Path('encoder')
    assert run.has_trained_unknown == (kind != 'character')
