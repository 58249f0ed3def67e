"""
# Where an export goes

A folder is written under another name, checked, and renamed when it is right: nobody ever sees half of one, or a wrong
one. What it replaces is there until then.
"""
import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import expand_home, sync_folder
from labml_mlm.export.card import CARD, CURVES
from labml_mlm.export.custom_code import HEAD_MODELING, MODELING
from labml_mlm.export.sentence_transformers import FILES as SENTENCE_FILES
from labml_mlm.export.tokenizer_files import FILES as TOKENIZER_FILES
from labml_mlm.inference.pretrained import Pretrained
from labml_mlm.published.folder import CONFIG, WEIGHTS
from labml_mlm.runs.checkpoint import METADATA
from labml_mlm.runs.run import is_run

# All that an export writes
_OWN = {Path(name).parts[0] for name in
        (CONFIG, WEIGHTS, MODELING.name, HEAD_MODELING, CARD, CURVES, *TOKENIZER_FILES, *SENTENCE_FILES)}
# Of a rename onto something
_EXISTS = errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR


def check_target(trained: Pretrained, path: Path, *, is_forced: bool):
    """Raises `UserError` if an export may not write there: to a run, to its source, or to what something else wrote."""
    target = expand_home(path).resolve()
    for source in filter(None, (trained.checkpoint and trained.checkpoint.path, trained.source)):
        source = _run_of(source.resolve())
        # In a folder that was published, another one is harmless
        is_inside = is_run(source) and source in target.parents
        if is_inside or target in (source, *source.parents):
            where = 'is in' if is_inside else 'is' if target == source else 'has in it'
            raise UserError(f'{path} {where} {source}, from where the model comes: export to another folder')
    if not target.parent.is_dir():
        raise UserError(f'{path}: there is no folder {target.parent}')
    if not target.exists():
        return
    if not target.is_dir() or any(target.iterdir()) and not _is_export(target):
        raise UserError(f'{path} exists, and labml-mlm export has not written it: give another folder')
    if others := sorted({child.name for child in target.iterdir()} - _OWN):
        raise UserError(f'{path} has {", ".join(others)} in it, which labml-mlm export has not written: give another '
                        'folder')
    if not is_forced:
        raise UserError(f'{path} exists: --force replaces it')


def _run_of(path: Path) -> Path:
    """The run of a checkpoint that lies in one; otherwise the path itself."""
    return path.parents[1] if (path / METADATA).exists() and is_run(path.parents[1]) else path


def _is_export(folder: Path) -> bool:
    try:
        return 'labml_mlm' in json.loads((folder / CONFIG).read_text(encoding='utf-8'))
    except (OSError, ValueError, TypeError):
        return False


@contextlib.contextmanager
def new_folder(path: Path, *, is_forced: bool) -> Iterator[Path]:
    """
    A folder to write to. When the block ends, it is at `path`, on the disk; if it raises, nothing of that is left.

    * `is_forced` replaces what is there

    Raises `UserError` if something has come to be there meanwhile.
    """
    target = expand_home(path).resolve()
    temporary = target.with_name(f'.{target.name}.{uuid.uuid4().hex[:8]}')
    temporary.mkdir()
    try:
        yield temporary
        _sync(temporary)
        _rename(temporary, target, is_forced=is_forced)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _sync(folder: Path):
    for path in folder.rglob('*'):
        if path.is_file():
            with open(path, 'rb') as f:
                os.fsync(f.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


def _rename(temporary: Path, target: Path, *, is_forced: bool):
    old = temporary.with_name(f'{temporary.name}.old')
    try:
        if is_forced:
            with contextlib.suppress(FileNotFoundError):
                target.rename(old)
        # Fails where a folder is that has something in it
        temporary.rename(target)
    except BaseException as e:
        if old.exists() and not target.exists():
            old.rename(target)
        if isinstance(e, OSError) and e.errno in _EXISTS:
            raise UserError(f'{target} has been written meanwhile, by another process') from None
        raise
    finally:
        if old.exists():
            shutil.rmtree(old, ignore_errors=True)
    sync_folder(target.parent)
