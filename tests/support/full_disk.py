"""A disk on which one file cannot be written, for scripts of tests."""

_SCRIPT = '''
import builtins
import os


def full(real):
    def opened(path, how, *arguments, **options):
        is_written = how & (os.O_WRONLY | os.O_RDWR) if isinstance(how, int) else set(how) & set('aw+')
        is_full = not isinstance(path, int) and os.fspath(path).endswith('/NAME') and is_written
        if is_full:
            # One of an ordinary file's would refuse a device
            return real('/dev/full', how, *arguments, **{**options, 'opener': None} if 'opener' in options else options)
        return real(path, how, *arguments, **options)
    return opened


os.open, open_by_mode = full(os.open), full(builtins.open)
builtins.open = lambda path, mode='r', *arguments, **options: open_by_mode(path, mode, *arguments, **options)
'''


def on_full_disk(name: str) -> str:
    """What stands before a script in which a file whose path ends in `name` cannot be written: the disk is full."""
    return _SCRIPT.replace('NAME', name)
