"""A disk on which one file cannot be written, for scripts of tests."""

_SCRIPT = '''
import builtins
import io
import os


def full(real):
    def opened(path, how, *arguments, **options):
        is_written = how & (os.O_WRONLY | os.O_RDWR) if isinstance(how, int) else set(how) & set('aw+')
        # Also under the name that it has until it is complete
        is_full = not isinstance(path, int) and is_written and (
            os.fspath(path).endswith('/NAME') or '/.NAME.' in os.fspath(path))
        if is_full:
            # That of ordinary files would refuse a device
            options.pop('opener', None)
            return real('/dev/full', how, *arguments, **options)
        return real(path, how, *arguments, **options)
    return opened


os.open, open_by_mode = full(os.open), full(builtins.open)
builtins.open = io.open = lambda path, mode='r', *arguments, **options: open_by_mode(path, mode, *arguments, **options)
'''


def on_full_disk(name: str) -> str:
    """What stands before a script in which a file whose path ends in `name` cannot be written: the disk is full."""
    return _SCRIPT.replace('NAME', name)
