"""What `labml-mlm` takes: its commands and their arguments."""
import argparse
from pathlib import Path

from labml_mlm.cli import commands
from labml_mlm.cli.embed import embed, probe
from labml_mlm.cli.export import export
from labml_mlm.cli.fill_mask import fill_mask
from labml_mlm.cli.predict import predict
from labml_mlm.cli.score import inspect, score
from labml_mlm.common.arguments import Parser, versions_text
from labml_mlm.report.command import add_report
from labml_mlm.run_commands.arguments import add_run_commands
from labml_mlm.sweep.command import add_sweep

_RUN = ('a run: its uuid or the beginning of it, its name or `last` for the newest, its folder or that of a checkpoint')
_MODEL = f'{_RUN}; or the folder of a published encoder'
_TEXTS = ('a text on each line, or in each row of .jsonl, .csv, .tsv or .parquet, or record of .fasta; - is standard '
          'input')
_FIELD = 'the field of a row that has the text ({}); with it, standard input is JSON lines'
_PREDICT = (
    'Predict labels of texts: a JSON object on a line for each, in the order of FILE. That is {"label": …, '
    '"probabilities": {…}}; {"labels": […], "probabilities": {…}} if there may be several; {"value": …} for numbers; '
    '{"words": […], "labels": […], "probabilities": […]} for tagged words. A text that is empty has null in place of '
    'all, so that lines stay those of FILE. FILE is a text a line (.txt, standard input), or has fields (.jsonl, .csv, '
    '.tsv); for taggers, CoNLL columns (.conll, .bio, .tsv, .txt) or lists of words (.jsonl), and standard input has a '
    'sentence a line, with spaces between words.')
# Beside what labml itself keeps, for runs of all projects
_STORE = Path('~/.labml/app.sqlite')


def command_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser of all, and those of the commands by name."""
    parser = Parser(prog='labml-mlm',
                    description='Train models; use, evaluate and watch the runs of labml_mlm.')
    parser.add_argument('--version', action='version', version=versions_text(),
                        help='show the versions of labml_mlm, labml and torch')
    added = parser.add_subparsers(required=True, metavar='COMMAND')

    def command(name: str, function, about: str) -> Parser:
        command_ = added.add_parser(name, help=about.partition('. ')[0].removesuffix('.'), description=about)
        command_.set_defaults(command=function)
        return command_

    added.add_parser('train', help='Train on a text, in the current folder: labml-mlm train FILE [name=value ...]; '
                                   'labml-mlm train --help all lists all items.')

    add_sweep(command)

    listed = command('runs', commands.list_runs, 'List the runs of the current labml project.')

    samples = command('samples', commands.samples,
                      'Show how the prompts of a run were filled in at each of its validations.')
    samples.add_argument('run', metavar='RUN', help=_RUN)

    plot = command('plot', commands.plot, 'Plot loss and accuracy of runs.')
    plot.add_argument('run', metavar='RUN', nargs='+', help=_RUN)
    plot.add_argument('-o', '--output', type=Path, default=Path('curves.png'), metavar='FILE',
                      help='the image (curves.png); its suffix sets the format')

    text_ = command('text', commands.text,
                    'Tell what is in a text before one trains on it: lines and what is repeated, characters by script, '
                    'what a tokenizer makes of it and loses of it, and how long an epoch takes.')
    text_.add_argument('file', metavar='FILE', nargs='+',
                       help='a UTF-8 text, JSON lines, .csv, .tsv, .parquet, .fasta, or a folder of such')
    text_.add_argument('--tokenizer', metavar='RUN|FILE',
                       help=f'a tokenizer.json, or a folder with a tokenizer; or {_MODEL}, with whose items an epoch '
                            'is measured. By default a token for each character, as in recipe=char')
    text_.add_argument('--field', metavar='NAME', help='the field of a row that has the text (text)')

    fill_mask_ = command('fill-mask', fill_mask,
                         'Fill in every [MASK] of texts, of lines of standard input, or of what is typed at a prompt. '
                         'The mask token of the run, such as <mask>, is one, too.')
    fill_mask_.add_argument('run', metavar='RUN', help=_MODEL)
    fill_mask_.add_argument('text', metavar='TEXT', nargs='*',
                            help='a text with [MASK] in it, in quotes; by default, lines of standard input')
    fill_mask_.add_argument('--top', type=_at_least_1, metavar='N',
                            help='predictions for each [MASK], or fillings with --joint (5)')
    fill_mask_.add_argument('--candidates', action='append', metavar='A,B',
                            help='order these for the only [MASK], each by the probability of all of its tokens. Given '
                                 'more than once, each is one candidate as it is, with commas and spaces')
    fill_mask_.add_argument('--joint', action='store_true',
                            help='fill in all masks of a text together, and print the most probable fillings')
    fill_mask_.add_argument('--beam', type=_at_least_1, metavar='N',
                            help='with --joint, partial fillings that are kept (16)')

    evaluate = command('evaluate', commands.evaluate,
                       'Compute loss, masked accuracy and perplexity on a text, next to the unigram baseline; or, of a '
                       'fine-tuned run, its metrics on labelled texts.')
    evaluate.add_argument('run', metavar='RUN', help=_MODEL)
    evaluate.add_argument('--text', action='append', metavar='FILE',
                          help='a UTF-8 text, JSON lines, .csv, .tsv, .parquet, .fasta, or a folder of such; may be '
                               'repeated. By default, the validation set of the run. Of a fine-tuned run, a file with '
                               'labels, as for training')
    evaluate.add_argument('--field', metavar='NAME',
                          help='field or column of the text in such files, by default that of the run')
    evaluate.add_argument('--pseudo', action='store_true',
                          help='also pseudo-perplexity, which masks each token in turn; takes seq_len times as long')

    score_ = command('score', score,
                     'Compute the pseudo-log-likelihood of each line of a text and of all of them, or how often the '
                     'better sentence of a pair has the higher one.')
    score_.add_argument('run', metavar='RUN', help=_MODEL)
    score_.add_argument('file', metavar='FILE', nargs='?', type=Path, help=_TEXTS)
    score_.add_argument('--pairs', metavar='FILE', type=Path,
                        help='minimal pairs as JSON lines, with sentence_good, sentence_bad and UID; - for standard '
                             'input')
    score_.add_argument('--field', metavar='NAME', help=_FIELD.format('that of the run'))

    inspect_ = command('inspect', inspect, 'Show how well each token of a text is expected, and what else could be '
                                           'there.')
    inspect_.add_argument('run', metavar='RUN', help=_MODEL)
    inspect_.add_argument('text', metavar='TEXT', nargs='?', help='a text; by default, standard input')
    inspect_.add_argument('-o', '--output', type=Path, metavar='FILE', help='write a page of HTML')
    inspect_.add_argument('--top', type=_at_least_1, default=5, metavar='N', help='choices for each token (5)')

    for parser_ in (score_, inspect_):
        parser_.add_argument('--within-word', action='store_true',
                             help='mask the later tokens of the same word as well')
        parser_.add_argument('--window', type=_at_least_1, metavar='N',
                             help='tokens that are seen at once; longer texts are cut (seq_len of the run)')

    predict_ = command('predict', predict, _PREDICT)
    predict_.add_argument('run', metavar='RUN', help=f'a fine-tuned run: {_RUN.removeprefix("a run: ")}')
    predict_.add_argument('file', metavar='FILE', help='texts, or `-` for standard input; compressed ones, too')
    predict_.add_argument('--field', default='', metavar='NAME',
                          help='field or column of the text, or of the list of words; by default, that of training')
    predict_.add_argument('--pair-field', default='', metavar='NAME', help='field or column of the second text')

    export_ = command('export', export, 'Write a model as a folder that Hugging Face loads, or as a file in ONNX.')
    export_.add_argument('run', metavar='RUN', help=_MODEL)
    export_.add_argument('target', metavar='FOLDER', type=Path, help='the folder, or a file that ends in .onnx')
    export_.add_argument('--force', action='store_true', help='replace what an export has written before')
    export_.add_argument('--custom-code', action='store_true',
                         help='with code of its own, for `trust_remote_code=True`: any model, exact in 16 bits, too')
    export_.add_argument('--sentence-transformers', action='store_true', help='a `SentenceTransformer`, too')
    export_.add_argument('--encoder', action='store_true', help='ONNX: hidden states in place of logits')

    embed_ = command('embed', embed, 'Compute features of texts, or find those that are nearest to another one.')
    embed_.add_argument('run', metavar='RUN', help=_MODEL)
    embed_.add_argument('file', metavar='FILE', type=Path, help=_TEXTS)
    embed_.add_argument('-o', '--output', type=Path, metavar='FILE',
                        help='where to: .npy, .parquet, or - for JSON lines on standard output (the default)')
    embed_.add_argument('--field', metavar='NAME', help=_FIELD.format('text'))
    embed_.add_argument('--pooling', choices=['mean', 'cls'], default='mean',
                        help='the mean over the tokens of a text (the default), or the vector of [CLS]')
    embed_.add_argument('--layer', type=int, default=-1, metavar='N',
                        help='0 for the embeddings, or the number of a layer; negative from the end (-1)')
    embed_.add_argument('--max-tokens', type=_at_least_1, metavar='N',
                        help='cut texts to so many tokens; by default, to what the model takes')
    embed_.add_argument('--normalize', action='store_true', help='divide each vector by its length')
    embed_.add_argument('--zeros-for-empty', action='store_true',
                        help='a vector of zeros for a text without tokens, which is refused otherwise')
    embed_.add_argument('--near', metavar='TEXT', help='print the texts whose features are nearest, by the cosine')
    embed_.add_argument('--top', type=_at_least_1, metavar='N', help='how many of them (5)')

    probe_ = command('probe', probe,
                     'Tell how well the frozen features of each layer tell labels, by logistic regression.')
    probe_.add_argument('run', metavar='RUN', help=_MODEL)
    probe_.add_argument('--text', type=Path, required=True, metavar='FILE',
                        help='labelled texts: .jsonl, .csv or .tsv; a fifth of each label is held out')
    probe_.add_argument('--valid', type=Path, metavar='FILE', help='labelled texts to hold out instead')
    probe_.add_argument('--text-field', default='text', metavar='NAME', help='the field with the text (text)')
    probe_.add_argument('--label-field', default='label', metavar='NAME', help='the field with the label (label)')
    probe_.add_argument('--max-texts', type=_at_least_1, default=5000, metavar='N',
                        help='take so many texts of a file that has more, at random (5000)')

    sync = command('sync', commands.sync, 'Send a labml app the parts of a run that it does not have.')
    sync.add_argument('run', metavar='RUN', nargs='?', help=f'{_RUN}; by default, the newest')
    sync.add_argument('--all', action='store_true', help='all runs of the project')
    sync.add_argument('--url', help='the address of the app, instead of the app_url of the project')

    app = command('app', commands.app, 'Serve the labml app, for runs of any labml project.')
    app.add_argument('--host', default='127.0.0.1', help='the address to listen on (127.0.0.1). The app has no login')
    app.add_argument('--port', type=_port, default=5005, help='the port to listen on (5005)')
    app.add_argument('--store', type=Path, default=_STORE, metavar='FILE', help=f'where runs are stored ({_STORE})')
    app.add_argument('--allow-host', action='append', default=[], metavar='NAME',
                     help='a name by which this server may be called; may be repeated')

    add_report(command, _RUN)
    add_run_commands(parser, command, _RUN)

    for parser_ in (listed, samples, plot, text_, fill_mask_, evaluate, score_, inspect_, predict_, export_, embed_,
                    probe_, sync):
        parser_.add_argument('--path', type=Path, default=Path(), metavar='FOLDER',
                             help='a folder in the labml project, instead of the current one')
    for parser_ in (listed, samples, text_, fill_mask_, evaluate, score_, inspect_, embed_, probe_, sync):
        parser_.add_argument('--json', action='store_true', help='print JSON')
    for parser_ in (fill_mask_, evaluate, score_, inspect_, predict_, export_, embed_, probe_):
        parser_.add_argument('--checkpoint', default='best', metavar='WHICH',
                             help='`best` in validation (the default), `last`, or a step')
    for parser_ in (text_, fill_mask_, evaluate, score_, inspect_, predict_, export_, embed_, probe_):
        parser_.add_argument('--import', action='append', type=Path, dest='imported', metavar='FILE',
                             help='first import a Python file that registers parts of the model; trains nothing')
    return parser, added.choices


def _at_least_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text}: it must be an integer, at least 1')
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f'{text}: a port must be from 0 to 65535')
    return int(text)
