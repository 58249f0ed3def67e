"""Figures of corpora with their standard errors, and minimal pairs."""
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from support import published

import labml_mlm
from labml_mlm.common.errors import UserError
from labml_mlm.evaluation.figures import Accuracy, Corpus, PairScore, Phenomena, score_pairs
from labml_mlm.evaluation.score import TextScore, score_texts

PAIRS = [json.loads(line) for line in
         (Path(__file__).parent.parent / 'fixtures/minimal_pairs.jsonl').read_text().splitlines()]


def corpus_of(scores):
    corpus = Corpus()
    for scored in scores:
        corpus.add(scored)
    return corpus


def texts(n, *, seed=0):
    """Scores of texts of many lengths; a token costs about 2 nats."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, n)
    return [TextScore('', -float(rng.normal(2, 0.5, k).sum()), int(k), int(k) // 3 + 1, 2 * int(k), 1) for k in lengths]


def test_figures_are_ratios_of_sums():
    some = [TextScore('', -10., 4, 1, 8, 1), TextScore('', -2., 2, 1, 3, 2), TextScore('', 0., 0, 0, 0, 0)]
    corpus = corpus_of(some)
    figures = corpus.figures
    assert figures['nats_per_token'].value == 2
    assert figures['nats_per_word'].value == 6
    assert figures['bits_per_character'].value == pytest.approx(12 / 11 / math.log(2))
    assert figures['pseudo_perplexity'].value == pytest.approx(math.exp(2))
    assert corpus.totals == {'texts': 2, 'empty': 1, 'cut': 1, 'tokens': 6, 'words': 2, 'characters': 11, 'pll': -12}
    # Residuals ±2 around 2 nats a token
    assert figures['nats_per_token'].error == pytest.approx(math.sqrt(2 * 8) / 6)
    assert figures['pseudo_perplexity'].error == pytest.approx(math.exp(2) * math.sqrt(2 * 8) / 6)
    # The mean of texts has the error of a mean
    assert figures['nats_per_text'] == pytest.approx((6, np.std([10, 2], ddof=1) / math.sqrt(2)))


def test_standard_error_is_how_much_the_figure_varies_between_corpora():
    figures = [corpus_of(texts(50, seed=seed)).figures for seed in range(400)]
    for name in 'nats_per_token', 'nats_per_word', 'pseudo_perplexity':
        spread = np.std([figure[name].value for figure in figures])
        assert np.mean([figure[name].error for figure in figures]) == pytest.approx(spread, rel=0.15)


def test_one_text_has_no_standard_error_and_none_no_figure():
    assert corpus_of(texts(1)).figures['nats_per_token'].error is None
    assert all(figure == (None, None) for figure in Corpus().figures.values())
    # Equal texts do not vary
    assert corpus_of(texts(1) * 5).figures['nats_per_token'].error == pytest.approx(0, abs=1e-6)


def test_enormous_perplexity_is_infinite():
    assert corpus_of([TextScore('', -1e5, 1, 1, 1, 1)]).figures['pseudo_perplexity'].value == math.inf


def test_accuracy_by_phenomenon():
    def pair(good, bad, **fields):
        return PairScore(fields, *(TextScore('', pll, 1, 1, 1, 1) for pll in (good, bad)))
    phenomena = Phenomena()
    for scored in [pair(-1., -2., UID='a', field='x'), pair(-3., -2., UID='a', field='y'),
                   pair(-1., -1. - 1e-9, UID='b', field='x')]:
        phenomena.add(scored)
    assert phenomena.total == Accuracy(3, 1, 1)
    assert phenomena.by == {'UID': {'a': Accuracy(2, 1, 0), 'b': Accuracy(1, 0, 1)}, 'linguistics_term': {},
                            'field': {'x': Accuracy(2, 1, 1), 'y': Accuracy(1, 0, 0)}}
    assert phenomena.by['UID']['a'].figure == pytest.approx((0.5, math.sqrt(0.25 / 2)))


def test_pairs_have_the_scores_of_their_sentences(fill_mask):
    pairs = [{'sentence_good': 'the lazy dog', 'sentence_bad': 'the dog lazy', 'UID': 'order'},
             {'sentence_good': 'over', 'sentence_bad': 'ovre'}]
    found = list(score_pairs(fill_mask.pretrained, iter(pairs), window=32))
    assert [scored.pair for scored in found] == pairs
    sentences = [pair[name] for pair in pairs for name in ('sentence_good', 'sentence_bad')]
    assert [pll for scored in found for pll in (scored.good.pll, scored.bad.pll)] == \
        pytest.approx([scored.pll for scored in score_texts(fill_mask.pretrained, sentences, window=32)], abs=1e-4)
    # Known by heart
    assert found[0].is_right and not found[0].is_tie


def test_sentences_with_the_same_tokens_are_a_tie(tmp_path):
    uncased = labml_mlm.load(published.save(tmp_path / 'uncased'))
    assert uncased.ids('The Fox').tolist() == uncased.ids('the fox').tolist()
    # In batches of other lengths
    pairs = [{'sentence_good': 'The Fox', 'sentence_bad': 'the fox'},
             {'sentence_good': 'the quick brown fox over the dog', 'sentence_bad': 'the'}]
    found = list(score_pairs(uncased, pairs))
    assert found[0].is_tie and not found[0].is_right


@pytest.mark.parametrize(('bad', 'message'), [
    ({'sentence_good': 'the'}, "`sentence_bad` has no text: the fields are 'sentence_good'"),
    ({'sentence_good': 'the', 'sentence_bad': ' '}, '`sentence_bad` has no text'),
    ({'sentence_good': 'the', 'sentence_bad': 'the'}, "both sentences are the same: 'the'"),
    ({'sentence_good': 'the', 'sentence_bad': 'ü'}, 'does not know'), (['the', 'fox'], 'must be an object')])
def test_invalid_pair_is_refused_after_those_before_it(fill_mask, bad, message):
    good = {'sentence_good': 'the', 'sentence_bad': 'hte'}
    scores = score_pairs(fill_mask.pretrained, [good, bad, good])
    assert next(scores).pair == good
    with pytest.raises(UserError, match=message):
        next(scores)


def is_balanced(text):
    brackets = re.sub(r'[^()\[\]{}]', '', text)
    while brackets != (brackets := re.sub(r'\(\)|\[\]|{}', '', brackets)):
        pass
    return not brackets


def test_minimal_pairs_differ_where_they_should():
    by = {}
    for pair in PAIRS:
        assert pair['sentence_good'] != pair['sentence_bad']
        by.setdefault(pair['UID'], []).append(pair)
    assert {name: len(pairs) for name, pairs in by.items()} == dict.fromkeys(
        ['agreement', 'case', 'brackets', 'indentation'], 10)
    # Only the good ones are Python
    for pair in by['indentation']:
        compile(pair['sentence_good'], '', 'exec')
        with pytest.raises(SyntaxError):
            compile(pair['sentence_bad'], '', 'exec')
    assert all(is_balanced(pair['sentence_good']) and not is_balanced(pair['sentence_bad'])
               for pair in by['brackets'])


def test_command_prints_accuracies(command, trained):
    pairs = [{'sentence_good': 'the lazy dog', 'sentence_bad': 'the dzay log', 'UID': 'order', 'field': 'syntax'},
             {'sentence_good': 'jumps over the', 'sentence_bad': 'jumps jumps jumps', 'UID': 'verb', 'field': 'syntax'}]
    (trained.path / 'pairs.jsonl').write_text('\n\n'.join(map(json.dumps, pairs)))
    code, out, err = command('score', 'feed', '--pairs', 'pairs.jsonl', '--window', '32')
    assert code == 0, err
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ['pairs', 'accuracy', '±', 'error']
    assert ['1', '1.000', '0.000', 'order'] in rows and ['by', 'field'] in rows
    assert rows[-1] == ['2', '1.000', '0.000', 'all', 'pairs']

    code, out, _ = command('score', 'feed', '--pairs', 'pairs.jsonl', '--window', '32', '--json')
    *scored, figures = map(json.loads, out.splitlines())
    assert [line['is_right'] for line in scored] == [True, True]
    assert scored[0]['pll_good'] > scored[0]['pll_bad'] and scored[0]['UID'] == 'order'
    assert figures['total'] == {'pairs': 2, 'right': 2, 'ties': 0, 'accuracy': 1., 'error': 0.}
    assert list(figures['UID']) == ['order', 'verb'] and list(figures['field']) == ['syntax']
