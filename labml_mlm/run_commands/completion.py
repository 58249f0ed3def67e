"""
# `labml-mlm completion`

The script knows all commands and options, so that nothing is started when a person types. Names of runs are those of
the folders in `logs/` of the project.
"""
import argparse

from labml_mlm.common.arguments import Parser

SHELLS = 'bash', 'zsh'
_RUNS = '''
_labml_mlm_runs() {
  local folder="$PWD"
  while [ ! -e "$folder/.labml.yaml" ] && [ -n "$folder" ]; do folder="${folder%/*}"; done
  [ -n "$folder" ] || folder="$PWD"
  echo last
  [ -d "$folder/logs" ] && (cd "$folder/logs" && find -L . -mindepth 1 -maxdepth 2 -type d ! -name '.*' \\
    -exec basename {} \\; 2>/dev/null)
}
'''
_PREAMBLE = {
    'bash': f'''{_RUNS}
_labml_mlm_complete_runs() {{
  compgen -W "$(_labml_mlm_runs)" -- "$1"
  compgen -d -- "$1"
}}
''',
    'zsh': f'''{_RUNS}
_labml_mlm_complete_runs() {{
  compadd -- ${{(f)"$(_labml_mlm_runs)"}}
  _files -/
}}
'''}
# What completes the argument of a run
RUNS = dict.fromkeys(SHELLS, '_labml_mlm_complete_runs')


def completion(parsed: argparse.Namespace, parser: Parser):
    """Prints the script that completes the commands, options and runs of `labml-mlm` in a shell."""
    import shtab

    for command in parser._subparsers._group_actions[0].choices.values():
        for action in command._actions:
            if action.dest == 'run' and not action.option_strings:
                action.complete = RUNS
            elif action.metavar == 'FILE':
                action.complete = shtab.FILE
            elif action.metavar == 'FOLDER':
                action.complete = shtab.DIRECTORY
    print(shtab.complete(parser, parsed.shell, preamble=_PREAMBLE))
