"""Commands for which permissions hold, and commands of a user that the system does not know."""
import os
import shutil

import pytest

_OVERRIDES = 'dac_override', 'dac_read_search'
# Nobody's
_UID = '123456'


def held_by_permissions() -> list[str]:
    """What to put before a command, so that it can write only what permissions say. Skips where root has no way."""
    if os.geteuid():
        return []
    dropped = ','.join(f'-{name}' for name in _OVERRIDES)
    return [*_setpriv(), f'--bounding-set={dropped}', f'--inh-caps={dropped}']


def of_unknown_user() -> list[str]:
    """What to put before a command, so that its user is not in `/etc/passwd`; it still reads and writes all files."""
    if os.geteuid():
        pytest.skip('needs root, to become another user')
    kept = ','.join(f'+{name}' for name in _OVERRIDES)
    return [*_setpriv(), f'--reuid={_UID}', f'--regid={_UID}', '--clear-groups', f'--inh-caps={kept}',
            f'--ambient-caps={kept}']


def _setpriv() -> list[str]:
    if not shutil.which('setpriv'):
        pytest.skip('needs setpriv, of util-linux')
    return ['setpriv']
