"""
# Damaged files, by the thousand

    python benchmarks/fuzz.py --minutes 20 [--format NAME,…] [--seed S] [--cases N] [--keep FOLDER]

Each case damages one file of a project (a checkpoint, a log, a token cache, the folder of an encoder, …; an unknown
`--format` lists them) and lets one of the commands read it that people use, in a process of its own. It may do what
it is asked for, leave something out, or end with a message of the project's own. A finding is another exception, a
death, output that is no JSON where JSON was asked for, a flood of output, more than 2 GB of memory, 10 seconds of
CPU, or 120 of a clock.

A case is made by its seed; seeds go up from `--seed`. The file of a finding is kept, and the exit code is 1 then. A
case takes about a third of a second on one core.
"""
import argparse
import contextlib
import json
import os
import platform
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

os.environ |= {'OMP_NUM_THREADS': '1', 'TOKENIZERS_PARALLELISM': 'false', 'NO_COLOR': '1'}

import fuzz_targets
import torch

# Bytes more than the process has, seconds of its CPU, seconds of a clock, bytes of a file, and of what it prints
_MEMORY, _SECONDS, _CLOCK, _FILE, _OUTPUT = 2 ** 31, 10, 120, 2 ** 28, 100_000
# The exit code of an exception that no command may raise
_UNEXPECTED = 70


class Finding(NamedTuple):
    """A case that did not end as it must."""
    seed: int
    format: str
    reader: str
    # What is wrong, in a line; and the file
    wrong: str
    path: Path

    def __str__(self) -> str:
        return (f'{self.wrong}\n  {self.reader}, {self.path}; again: python benchmarks/fuzz.py --format {self.format} '
                f'--seed {self.seed} --cases 1')


class Fuzzer:
    """
    ## Runs cases

    * `folder` is an empty one, for the project and a whole copy of it
    * `keep` is where files of findings are kept
    """

    def __init__(self, folder: Path, keep: Path):
        self.pristine, self.project, self.output = folder / 'pristine', folder / 'project', folder / 'output.txt'
        self.keep = keep
        # How commands ended, by format and exit code
        self.outcomes: Counter[tuple[str, int]] = Counter()
        # Runs have paths of their texts
        self.project.mkdir()
        fuzz_targets.make_project(self.project)
        self.project.rename(self.pristine)

    def case(self, seed: int, formats: Sequence[str]) -> Finding | None:
        """One case; `None` if all is well."""
        name = random.Random(f'{seed} of {len(formats)}').choice(formats)
        rng = random.Random(f'{seed} {name}')
        shutil.rmtree(self.project, ignore_errors=True)
        shutil.copytree(self.pristine, self.project)
        reader = rng.choice(fuzz_targets.FORMATS[name].readers)
        path = fuzz_targets.damage(self.project, name, rng)
        damaged = path.read_bytes()
        code = self._read(reader, fuzz_targets.target_of(path, self.project))
        printed = self.output.read_text(errors='replace')
        self.outcomes[name, code] += 1
        if not (wrong := _wrong(code, printed, is_json='--json' in reader)):
            return None
        self.keep.mkdir(parents=True, exist_ok=True)
        kept = self.keep / f'{seed}-{path.name}'
        kept.write_bytes(damaged)
        kept.with_name(f'{kept.name}.txt').write_text(
            f'{path.relative_to(self.project)}, {reader}\n{printed[-10 ** 6:]}')
        return Finding(seed, name, reader, wrong, kept)

    def _read(self, reader: str, target: str) -> int:
        """The exit code of a reader, in a process of its own; that of a death by a signal is negative."""
        self.output.unlink(missing_ok=True)
        self.output.touch()
        pid = os.fork()
        if pid == 0:
            self._child(reader, target)
        handle = os.pidfd_open(pid)
        is_over, _, _ = select.select([handle], [], [], _CLOCK)
        os.close(handle)
        if not is_over:
            os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _child(self, reader: str, target: str) -> NoReturn:
        fuzz_targets.enter(self.project, self.output)
        code = _UNEXPECTED
        try:
            n_pages = int(Path('/proc/self/statm').read_text().split()[0])
            bounds = {resource.RLIMIT_AS: n_pages * resource.getpagesize() + _MEMORY, resource.RLIMIT_CPU: _SECONDS,
                      resource.RLIMIT_FSIZE: _FILE, resource.RLIMIT_CORE: 0}
            for kind, bound in bounds.items():
                resource.setrlimit(kind, (bound, bound))
            fuzz_targets.read(reader, target)
            code = 0
        except SystemExit as e:
            code = e.code or 0
        except BaseException:
            traceback.print_exc()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def _wrong(code: int, printed: str, *, is_json: bool) -> str:
    """What is wrong with an exit code and an output, in a line; empty if nothing is."""
    lines = printed.strip().splitlines() or ['']
    if code == -signal.SIGXCPU:
        return f'more than {_SECONDS} s of CPU'
    if code == -signal.SIGKILL:
        return f'killed: after {_CLOCK} s, or for {_SECONDS} s of CPU'
    if code < 0:
        return f'died of {signal.Signals(-code).name}'
    if code not in fuzz_targets.CODES or 'Traceback' in printed:
        return f'exit code {code}: {lines[-1][:300]}'
    if len(printed) > _OUTPUT:
        return f'{len(printed):,} characters of output'
    if code and not lines[-1]:
        return f'exit code {code} without a word'
    if code == 0 and is_json and not any(map(_is_json, lines)):
        return f'no JSON: {lines[-1][:300]}'
    return ''


def _is_json(line: str) -> bool:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(constant)

    with contextlib.suppress(ValueError):
        json.loads(line, parse_constant=refuse)
        return True
    return False


def main():
    """Prints findings and a table of how commands ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--minutes', type=float, default=1.)
    parser.add_argument('--format', default=','.join(fuzz_targets.FORMATS), metavar='NAME,…')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--cases', type=int, help='so many at most')
    parser.add_argument('--keep', type=Path, default=Path('fuzz'), metavar='FOLDER', help='for files of findings')
    arguments = parser.parse_args()
    formats = arguments.format.split(',')
    if unknown := set(formats) - fuzz_targets.FORMATS.keys():
        parser.error(f'--format {min(unknown)}: it must be of {", ".join(fuzz_targets.FORMATS)}')
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix='labml_mlm-fuzz-') as folder:
        fuzzer, began = Fuzzer(Path(folder), arguments.keep), time.monotonic()
        n = 0
        while (arguments.cases is None or n < arguments.cases) and time.monotonic() < began + 60 * arguments.minutes:
            if finding := fuzzer.case(arguments.seed + n, formats):
                findings.append(finding)
                print(finding, flush=True)
            n += 1
    print(f'Python {platform.python_version()}, torch {torch.__version__}; {n:,} cases from seed {arguments.seed}, '
          f'{(time.monotonic() - began) / 60:.1f} minutes\n')
    print(f'{"":16}{"cases":>7}{"read":>7}{"refused":>9}{"failed":>8}{"findings":>10}')
    of = Counter(finding.format for finding in findings)
    for name in formats:
        codes = Counter({code: k for (format_, code), k in fuzzer.outcomes.items() if format_ == name})
        print(f'{name:16}{codes.total():7,}{codes[0] + codes[130]:7,}{codes[2]:9,}{codes[1]:8,}{of[name]:10,}')
    raise SystemExit(bool(findings))


if __name__ == '__main__':
    main()
