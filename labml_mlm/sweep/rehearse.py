"""
# What a sweep would train

A process of its own (`python -m labml_mlm.sweep.rehearse`): a request in JSON comes in on standard input; the
combinations go out on standard output, each checked and built as for a run, but not trained. torch is imported once,
and each combination is built in a fork, which leaves nothing behind.

It ends with 2 and a message for what a person can fix, as a run would.
"""
import json
import os
import runpy
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from labml_mlm.common.errors import UserError
from labml_mlm.common.exit import exit_on_error
from labml_mlm.items.schema import config_items, current_names, scalar_type
from labml_mlm.launch import train
from labml_mlm.launch.prepare import PreparedRun
from labml_mlm.launch.train_files import train_files
from labml_mlm.sweep import grid


def main():
    """Answers the request on standard input."""
    request = json.load(sys.stdin)
    # What is printed on the way is no answer
    answer = os.fdopen(os.dup(1), 'w')
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with exit_on_error(is_user_code=False):
        json.dump(find_combinations(**request), answer)
    answer.close()


def find_combinations(*, files: Sequence[str], overrides: Sequence[str], script: str | None, seeds: int | None,
                      n_random: int | None, random_seed: int) -> list[grid.Combination]:
    """The combinations of a sweep, checked. The arguments are those of `plan.Plan`."""
    # A recipe decides which items there are
    first = [override.partition(',')[0] if override.startswith('recipe=') else override for override in overrides]
    about = _ask(lambda: _call(script, [*files, *first]), lambda found: _describe(found, first))
    given = _with_current_names(overrides, about['renamed'])
    if seeds is not None and any(override.startswith(f'{grid.SEED}=') for override in given):
        raise UserError('give either --seeds or seed=, not both')
    combinations = grid.grid(grid.axes(given, whole=about['whole']))
    if n_random is not None:
        combinations = grid.draw(combinations, n_random, seed=random_seed)
    for combination in grid.new_values_first(combinations):
        arguments = [f'{name}={value}' for name, value in combination.items()]
        try:
            _ask(lambda: _call(script, [*files, *arguments]), _build)  # noqa: B023  it is called at once
        except UserError as e:
            raise UserError(_with_place(str(e), combination, grid.varied(combinations), about['whole'])) from None
    return grid.with_seeds(combinations, range(about['seed'], about['seed'] + seeds)) if seeds else combinations


def _with_place(message: str, combination: grid.Combination, names: Sequence[str], whole: Sequence[str]) -> str:
    """A message with the combination that it is about."""
    place = grid.shown(combination, names)
    if commas := [name for name, value in combination.items() if name in whole and ',' in value and name in message]:
        message += f'. Commas are part of a value of `{commas[0]}`: for several values, give it several times'
    return f'{message.removesuffix(".")} (with {place})' if place else message


def _with_current_names(overrides: Sequence[str], renamed: dict[str, str]) -> list[str]:
    pairs = [override.partition('=') for override in overrides]
    return [renamed.get(name, name) + equals + text for name, equals, text in pairs]


def _call(script: str | None, arguments: list[str]):
    """Calls what would train."""
    if script is None:
        train_files(arguments)
        return
    sys.argv = [script, *arguments]
    sys.path[0] = os.path.dirname(os.path.abspath(script))
    runpy.run_path(script, run_name='__main__')
    raise UserError(f'{script} trains nothing: it does not call `train`')


def _describe(found: train.ToTrain, overrides: Sequence[str]) -> dict[str, Any]:
    """What the grid has to know of the items."""
    if not set(overrides) <= set(found.arguments):
        raise UserError('the script gives `train` arguments of its own, and those of a sweep would have no effect')
    chosen = {name: text.partition(',')[0] for name, _, text in (override.partition('=') for override in overrides)}
    items = config_items(found.conf, chosen=chosen)
    return {'whole': [name for name, item in items.items() if _may_have_commas(item.type, item.options)],
            'renamed': current_names(items), 'seed': items[grid.SEED].default}


def _may_have_commas(annotation: Any, options: Sequence[str]) -> bool:
    scalar, _ = scalar_type(annotation)
    return scalar is str and not options or scalar not in (None, str, int, float, bool, int | float)


def _build(found: train.ToTrain):
    PreparedRun(found.conf, found.name, found.arguments, found.folder, values=found.values, resume=found.resume)


def _ask(call: Callable[[], None], answer: Callable[[train.ToTrain], Any]) -> Any:
    """
    What `answer` says in a fork where `call` would train. Raises `UserError` or `OSError` with the message of a run
    that cannot work.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            _answer(call, answer, out.fileno(), err.fileno())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out.seek(0)
        err.seek(0)
        message = err.read().decode(errors='replace').strip()
        if code == 0:
            return json.load(out)
        raise UserError(message) if code == 2 else OSError(message or f'a check ended with {code}')


def _answer(call: Callable[[], None], answer: Callable[[train.ToTrain], Any], out: int, err: int) -> NoReturn:
    """Writes the answer, or a message, and ends this process with the exit code of a run."""
    def rehearse(found: train.ToTrain) -> NoReturn:
        os.write(out, json.dumps(answer(found)).encode())
        # What a script does after training is not for now
        os._exit(0)

    os.dup2(err, 2)
    train.rehearse, code = rehearse, 1
    try:
        with exit_on_error():
            call()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        # Nothing of what began before the fork ends here
        os._exit(code)


if __name__ == '__main__':
    main()
