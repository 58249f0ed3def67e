"""
# `labml-mlm train`

Training without a script of one's own, in the current folder. A recipe says what to train; a run that is resumed, what
it was.
"""
import difflib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labml import lab, logger
from labml.logger import Text

from labml_mlm.common.errors import UserError, did_you_mean
from labml_mlm.common.project import is_in_project, set_project
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.distributed.process_group import ranks
from labml_mlm.finetuning.classification import ClassificationConfigs
from labml_mlm.finetuning.tagging import TaggingConfigs
from labml_mlm.items.overrides import parse_overrides
from labml_mlm.items.recipes import CLASSES
from labml_mlm.items.schema import config_items
from labml_mlm.launch.options import Options, split_arguments
from labml_mlm.launch.train import ToTrain, help_topic, train_found
from labml_mlm.runs.run import find_run

# Names of experiments by recipe: those of the scripts in `experiments/`, whose runs are listed beside them
_EXPERIMENTS = {'char': 'char_mlm', 'subword': 'subword_mlm', 'domain': 'domain_mlm', 'char_labml_nn_size': 'char_mlm',
                'classify': 'classify', 'tag': 'tag', 'none': 'mlm'}
_RECIPES = tuple(CLASSES)
# For the line that says which recipe was taken
_ABOUT = {'char': 'a token per character', 'domain': 'going on from init_from'}


class Kind(NamedTuple):
    """What a run is, before it is built."""
    # The name of its class of configs
    class_: str
    experiment: str
    # The recipe of the class, if no argument and no snapshot says it
    recipe: str | None = None


class Arguments(NamedTuple):
    """The command line, taken apart."""
    files: list[str]
    overrides: list[str]
    options: Options

    def given(self, name: str) -> str | None:
        """The value that is given for an item, as text."""
        values = [value for item, _, value in (override.partition('=') for override in self.overrides) if item == name]
        return values[-1] if values else None


def train_files(arguments: Sequence[str]):
    """
    Trains on files, with the arguments that follow `labml-mlm train`: `[FILE …] [recipe=NAME] name=value …`,
    `--resume RUN`, `--help`. It ends like `train`.
    """
    topic = help_topic(arguments)
    train_found(lambda: _find(arguments) if topic is None else _find_help(arguments), topic=topic)


def _find_help(arguments: Sequence[str]) -> ToTrain:
    given = _parse([argument for argument in arguments if argument not in ('--help', '-h')])
    kind = _new(given)
    return ToTrain(_configs(kind), kind.experiment, _with_recipe(given, kind), usage='[FILE ...] [recipe=NAME] ')


def _find(arguments: Sequence[str]) -> ToTrain:
    """What to train, the same at all ranks."""
    folder, kind = Path.cwd(), None
    with ranks().synchronize_errors():
        set_project(folder)
        given = _parse(arguments)
        if ranks().is_main:
            # It alone has the folders of runs
            kind = _new(given) if given.options.resume is None else _resumed(given.options.resume)
    kind = ranks().broadcast(kind)
    conf = _configs(kind)
    with ranks().synchronize_errors():
        overrides = [*_with_recipe(given, kind), *_text_path(given, conf)]
    if not is_in_project(folder):
        logger.log(f'Runs go to {folder / "logs"}: there is no .labml.yaml in this folder or above it', Text.meta)
    if given.options.resume is None and given.given('recipe') is None:
        logger.log(f'recipe={kind.recipe}: {_ABOUT[kind.recipe]}. Others: '
                   + ', '.join(f'recipe={name}' for name in _RECIPES if name != kind.recipe), Text.meta)
    return ToTrain(conf, kind.experiment, [*overrides, *given.options.arguments], folder)


def _parse(arguments: Sequence[str]) -> Arguments:
    """What is `name=value` is an override, even if there is such a file; others are files."""
    rest, options = split_arguments(arguments)
    is_override = [re.match(r'[A-Za-z_][\w.]*=', argument) is not None for argument in rest]
    return Arguments([argument for argument, is_item in zip(rest, is_override, strict=True) if not is_item],
                     [argument for argument, is_item in zip(rest, is_override, strict=True) if is_item], options)


def _new(given: Arguments) -> Kind:
    """What a new run is."""
    recipe = given.given('recipe')
    if recipe is None:
        recipe = 'domain' if given.given('init_from') else 'char'
    if recipe not in _EXPERIMENTS:
        raise UserError(f'`recipe={recipe}`: it must be one of {", ".join(_EXPERIMENTS)}.'
                        f'{did_you_mean(recipe, _EXPERIMENTS)}')
    return Kind(CLASSES.get(recipe, 'MLMConfigs'), _EXPERIMENTS[recipe], recipe)


def _resumed(name: str) -> Kind:
    """What a run is that is resumed. Raises `UserError` if it takes its script."""
    run, _ = find_run(lab.get_experiments_path(), name)
    snapshot = run.snapshot
    if snapshot is None:
        raise UserError(f'the run {run.uuid} cannot be resumed: it has no configs.json that can be read')
    script = os.path.relpath(snapshot['script']) if snapshot.get('script') else 'SCRIPT'
    resume = f'resume it with that script: python {script} --resume {run.uuid}'
    # Runs of earlier versions do not say what their scripts had
    recipes = {experiment: recipe for recipe, experiment in _EXPERIMENTS.items()}
    if 'own_code' not in snapshot and run.experiment not in recipes:
        raise UserError(f'the run {run.uuid} was started by a script of its own, with an earlier version: {resume}')
    if own := snapshot.get('own_code'):
        raise UserError(f'the run {run.uuid} was started by a script with code of its own '
                        f'({", ".join(own[:3])}{", …" if len(own) > 3 else ""}): {resume}')
    classes = {class_._objective: class_.__name__ for class_ in (MLMConfigs, ClassificationConfigs, TaggingConfigs)}
    objective = snapshot.get('objective', 'mlm')
    if objective not in classes:
        raise UserError(f'the run {run.uuid} was trained for {objective}, which is unknown here: {resume}')
    is_new = 'recipe' in snapshot['defaults'] or 'recipe' in snapshot['given']
    return Kind(classes[objective], run.script_experiment, None if is_new else recipes[run.experiment])


def _configs(kind: Kind) -> MLMConfigs | ClassificationConfigs | TaggingConfigs:
    classes = {class_.__name__: class_ for class_ in (MLMConfigs, ClassificationConfigs, TaggingConfigs)}
    conf = classes[kind.class_]()
    if kind.recipe not in (None, 'none'):
        conf.recipe = kind.recipe
    return conf


def _with_recipe(given: Arguments, kind: Kind) -> list[str]:
    """The overrides of a new run have a recipe."""
    if given.options.resume is not None or given.given('recipe') is not None:
        return given.overrides
    return [f'recipe={kind.recipe}', *given.overrides]


def _text_path(given: Arguments, conf: Any) -> list[str]:
    """The override that the files are. Raises `UserError` for what is no file."""
    if not given.files:
        return []
    items = config_items(conf)
    for i, name in enumerate(given.files):
        if not os.path.exists(os.path.expanduser(name)):
            raise UserError(_no_file(name, given.files[i + 1:], items, conf))
    if given.given('text_path') is not None:
        raise UserError(f'give either {given.files[0]} or text_path={given.given("text_path")}, not both')
    has_commas = any(',' in name for name in given.files)
    return [f'text_path={json.dumps(given.files) if has_commas else ",".join(given.files)}']


def _no_file(name: str, following: list[str], items: dict[str, Any], conf: Any) -> str:
    """What is wrong with an argument that is neither `name=value` nor a file; one with a dash is refused at once."""
    if name in _EXPERIMENTS:
        return f'there is no file or folder {name}; the recipe is recipe={name}'
    if name.startswith('-'):
        # What it should be, as in a script
        parse_overrides(conf, [name, *following])
    if name in items:
        return f'there is no file or folder {name}; an item is given as {name}={(following or ["VALUE"])[0]}'
    if '://' in name:
        return f'there is no file or folder {name}: text is read from files, so download it first'
    nearest = difflib.get_close_matches(name, os.listdir(), n=1)
    guess = f' Did you mean {nearest[0]}?' if nearest else ''
    return f'there is no file or folder {name}.{guess} What is no file is name=value; `--help all` lists all items'
