"""Taking runs off a labml app."""
import json
import urllib.request
from collections.abc import Sequence

from labml_mlm.tracking.client import Undelivered, exchange

# Seconds that an exchange may take
_TIMEOUT = 5.


def remove_from_app(uuids: Sequence[str], url: str) -> list[str]:
    """
    Takes runs off an app, and returns those that it had.

    * `url` is where the app takes updates, as labml has it

    Raises `Undelivered` if it cannot be reached, refuses, or still has one of them.
    """
    base = url.partition('/api/v1/')[0] + '/api/v1'
    had = [uuid for uuid in uuids if _has(base, uuid)]
    if had:
        _ask(base, 'runs', {'run_uuids': had})
        if kept := [uuid for uuid in had if _has(base, uuid)]:
            raise Undelivered(f'it keeps {", ".join(kept)}', is_refusal=True)
    return had


def _has(base: str, uuid: str) -> bool:
    return 'run_uuid' in _ask(base, f'run/{uuid}')


def _ask(base: str, path: str, body: dict | None = None) -> dict:
    """The answer to `GET`, or to `PUT` with a body."""
    request = urllib.request.Request(f'{base}/{path}', None if body is None else json.dumps(body).encode(),
                                     {'Content-Type': 'application/json'}, method='GET' if body is None else 'PUT')
    try:
        return exchange(request, timeout=_TIMEOUT)
    except Undelivered as e:
        if e.status == 404 and body is None:
            return {}
        raise
