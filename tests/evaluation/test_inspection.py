"""A text token by token, from Python and by `labml-mlm inspect`."""
import json
import math

import pytest
import torch

from labml_mlm.common.errors import UserError
from labml_mlm.evaluation.inspection import inspect_text
from labml_mlm.evaluation.score import score_texts


@pytest.mark.parametrize('within_word', [False, True])
def test_tokens_have_the_scores_of_the_text(models, within_word):
    for trained in models.values():
        text = 'the quick fox over the dog'
        found, [scored] = inspect_text(trained, text, within_word=within_word), \
            score_texts(trained, [text], within_word=within_word)
        assert found.score.pll == pytest.approx(scored.pll, abs=1e-4)
        assert found.score[2:] == scored[2:]
        assert sum(token.log_p for token in found.tokens) == pytest.approx(scored.pll, abs=1e-4)
        assert ''.join(token.text for token in found.tokens).split() == text.split()


def test_choices_are_what_is_most_probable(models):
    trained = models['bert']
    found = inspect_text(trained, 'the fox', top=3)
    ids = trained.ids('the fox')
    masked = ids.clone()
    masked[1] = trained.configs.mask_token
    with torch.no_grad():
        p = trained.model.predict(masked[:, None])[1, 0].softmax(-1)
    first = found.tokens[0]
    assert math.exp(first.log_p) == pytest.approx(p[ids[1]].item(), rel=1e-4)
    is_allowed = trained.configs._is_maskable
    best = p.where(is_allowed, 0).topk(3)
    assert [choice.token for choice in first.choices] == [trained.tokenizer.tokens[i] for i in best.indices]
    assert [choice.probability for choice in first.choices] == pytest.approx(best.values.tolist(), rel=1e-4)
    assert first.rank == 1 + int((p[is_allowed] > p[ids[1]]).sum())
    # The right token is the first choice exactly if its rank is 1
    assert all((token.rank == 1) == (token.choices[0].token.strip() == token.text.strip()) for token in found.tokens)


def test_long_texts_are_whole(fill_mask):
    text = 'the quick brown fox jumps over the lazy dog\n' * 20
    found = inspect_text(fill_mask.pretrained, text)
    assert ''.join(token.text for token in found.tokens) == text
    assert found.score.n_windows == len(text) / 16 and len(found.tokens) == len(text)
    # Known by heart
    assert sum(token.rank == 1 for token in found.tokens) > 0.9 * len(text)


@pytest.mark.parametrize(('text', 'top', 'message'), [('', 5, 'no token'), ('ü', 5, "does not know 'ü'"),
                                                      ('the', 0, 'top=0: it must be at least 1')])
def test_what_cannot_be_shown_is_refused(fill_mask, text, top, message):
    with pytest.raises(UserError, match=message):
        inspect_text(fill_mask.pretrained, text, top=top)


def test_command_prints_tokens_or_json_or_writes_a_page(command, trained):
    code, out, err = command('inspect', 'feed', 'the fox', '--top', '2')
    assert code == 0, err
    rows = out.splitlines()
    assert rows[0].split() == ['token', 'p', 'rank', 'could', 'be']
    assert rows[1].startswith("'t'") and rows[4].startswith("' '") and 'bits per character' in out

    code, out, err = command('inspect', 'feed', '--json', lines='the\nfox')
    assert code == 0, err
    found = json.loads(out)
    assert found['text'] == 'the\nfox' and [token['token'] for token in found['tokens']] == list('the\nfox')
    assert all(len(token['choices']) == 5 for token in found['tokens'])
    assert sum(token['log_p'] for token in found['tokens']) == pytest.approx(found['pll'])

    code, out, err = command('inspect', 'feed', 'the fox', '-o', 'page.html')
    assert (code, out) == (0, 'page.html shows 7 tokens\n'), err
    assert (trained.path / 'page.html').read_text().startswith('<!DOCTYPE html>')


def test_command_refuses_unknown_characters(assert_refused):
    assert_refused('inspect', 'feed', 'ü', message="the model does not know 'ü'")
