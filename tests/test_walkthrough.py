"""`docs/walkthrough.md`: its commands, in their order in one folder, print what the page shows."""
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from support.docs import PAGES
from support.project import ForkServer

# Where the page was written
FOLDER = '/home/me/my_model'
# What comes out differently each time: uuids, parts of them and of hashes, then all other numbers
_VARYING = re.compile(r'\b(?=[a-f]*\d)[0-9a-f]{12,}\b|[-+]?\d[\d,.:/–-]*(e[-+]\d+)?')


class Step(NamedTuple):
    """A command of the page, and what it shows of its output."""
    command: str
    lines: list[str]


def steps_of(page: str) -> list[Step]:
    """The commands of its `console` blocks. Lines of one that follow the first begin with `>`."""
    steps = []
    for block in re.findall(r'```console\n(.*?)```', page, re.DOTALL):
        for line in block.splitlines():
            if line.startswith('$ '):
                steps.append(Step(line[2:], []))
            elif line.startswith('> '):
                steps[-1] = Step(f'{steps[-1].command}\n{line[2:]}', [])
            else:
                steps[-1].lines.append(line)
    return steps


STEPS = steps_of(PAGES['walkthrough.md'])
# They need the internet, and leave the folder
INSTALL = STEPS[:2]


def words(line: str) -> str:
    """A line without what varies: numbers, widths of columns, and less probable predictions."""
    if line.startswith('filled') or not line.strip(' +x'):
        return line[:6].strip(' +x')
    line = re.sub(r'^( +(?:\d+  )?\S+ 0\.\d+)  .*', r'\1', line)
    return ' '.join(_VARYING.sub('#', line).split())


def is_shown(shown: str, printed: str) -> bool:
    """Whether a line of the page is one that was printed; `…` in it is anything."""
    pattern = '.*'.join(re.escape(part.strip()) for part in words(shown).split('…'))
    return re.fullmatch(pattern, words(printed)) is not None


def difference(shown: list[str], printed: list[str]) -> str | None:
    """The first line that is shown and was not printed, or the other way round; a line `…` is any number of lines."""
    # Those depend on how fast the machine is
    rest = [line for line in printed if line.strip() and not line.startswith(('About ', 'This machine is busy', 'Is '))]
    may_skip = False
    for line in filter(str.strip, shown):
        if line.strip() == '…':
            may_skip = True
            continue
        found = next((i for i, candidate in enumerate(rest) if is_shown(line, candidate)), None)
        if found is None or found and not may_skip:
            return f'{line!r} is shown, but {rest[:1]} was printed'
        rest, may_skip = rest[found + 1:], False
    return f'{rest[0]!r} was printed, and is not shown' if rest and not may_skip else None


def run(command: str, folder: Path, server: ForkServer) -> tuple[int, str]:
    """Exit code and output of a command; `labml-mlm` with all that it imports already there."""
    environment = {'PATH': f'{Path(sys.executable).parent}:/usr/bin:/bin', 'HOME': str(folder.parent),
                   'OMP_NUM_THREADS': '1'}
    if not command.startswith('labml-mlm '):
        result = subprocess.run(['bash', '-c', command], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT)
        return result.returncode, result.stdout
    out = folder.parent / 'output'
    out.unlink(missing_ok=True)
    arguments = shlex.split(command.replace('\\\n', ''))[1:]
    server.start([str(folder.parent / 'labml-mlm'), *arguments], cwd=folder, env=environment, out=out, err=out)
    code = server.wait()
    return code, out.read_text().replace(str(folder), FOLDER)


def runs_in(output: str) -> list[str]:
    """The beginnings of the uuids of runs that were trained."""
    return re.findall(r'The run is in .*/(\w{8})\w*$', output, re.MULTILINE)


@pytest.fixture
def folder(tmp_path) -> Path:
    """The folder of the page, beside what `pip install` makes of `labml-mlm`."""
    (tmp_path / 'labml-mlm').write_text('from labml_mlm.__main__ import main\n\nmain()\n')
    (tmp_path / 'my_model').mkdir()
    return tmp_path / 'my_model'


@pytest.mark.long(minutes=2)
def test_commands_print_what_the_page_shows(folder, fork_server):
    assert 'pip install' in INSTALL[0].command and INSTALL[1].command.endswith('cd ~/my_model')
    # The beginnings of uuids, by those of the page
    uuids = {}
    for command, shown in STEPS[2:]:
        for of_page, uuid in uuids.items():
            command = command.replace(of_page, uuid)
        code, printed = run(command, folder, fork_server)
        # What is mistyped or not there is refused
        assert code == (2 if shown and shown[-1].startswith(('`', 'there is no')) else 0), f'{command}\n{printed}'
        found = difference(shown, printed.splitlines())
        assert found is None, f'{command}: {found}\n{printed}'
        uuids |= zip(runs_in('\n'.join(shown)), runs_in(printed), strict=True)


@pytest.mark.parametrize('printed, is_same', [
    ('a 1\nb\nc 0.25 x d', True), ('a 22\nb\nx\nc 1e-5 d', True), ('a 1\nc 2 d', True), ('a 1\nb\nc 2 e', False),
    ('z 1\nb\nc 2 d', False), ('z\na 1\nc 2 d', False), ('a 1\nc 2 d\nd', False), ('a 1', False), ('', False),
])
def test_changed_words_are_noticed(printed, is_same):
    assert (difference(['a 7', '…', 'c 7 … d'], printed.splitlines()) is None) == is_same
