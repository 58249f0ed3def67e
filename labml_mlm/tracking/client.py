"""HTTP to a labml app."""
import contextlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

_NO_APP = 'it does not answer as a labml app does'


class Undelivered(Exception):
    """Why an app has not taken an update. If `is_refusal`, it answered, and may take another run."""

    def __init__(self, message: str, *, is_refusal: bool = False):
        super().__init__(message)
        self.is_refusal = is_refusal


def post_updates(url: str, updates: list[dict], *, timeout: float) -> dict:
    """
    Sends updates of a run to an app, and returns its answer.

    Raises `Undelivered` if the app cannot be reached, does not take them, or is not a labml app.
    """
    request = urllib.request.Request(url, json.dumps(updates).encode(),
                                     {'Content-Type': 'application/json; charset=utf-8'})
    try:
        with open_url(request, timeout) as response:
            answer = json.loads(response.read())
    except urllib.error.HTTPError as e:
        raise Undelivered(f'it answers {e.code} {_reason(e)}', is_refusal=True) from None
    except urllib.error.URLError as e:
        raise Undelivered(_error_text(e.reason)) from None
    except (OSError, http.client.HTTPException) as e:
        raise Undelivered(_error_text(e)) from None
    except ValueError:
        raise Undelivered(_NO_APP) from None
    if not isinstance(answer, dict) or not isinstance(answer.get('errors', []), list):
        raise Undelivered(_NO_APP)
    for error in answer.get('errors', []):
        if not isinstance(error, dict) or 'warning' not in error:
            message = (error.get('message') or error.get('error')) if isinstance(error, dict) else error
            raise Undelivered(f'it refuses: {message}', is_refusal=True)
    received = answer.get('received', {})
    if not isinstance(received, dict) or not all(isinstance(step, int | float) for step in received.values()):
        raise Undelivered(_NO_APP)
    return answer


def open_url(request: Any, timeout: float) -> Any:
    """Opens a URL or a request with `urllib`, but never through a proxy if it is on this machine."""
    url = request if isinstance(request, str) else request.full_url
    is_local = urllib.parse.urlsplit(url).hostname in ('localhost', '127.0.0.1', '::1')
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if is_local else []))
    return opener.open(request, timeout=timeout)


def _reason(error: urllib.error.HTTPError) -> str:
    with contextlib.suppress(Exception):
        answer = json.loads(error.read(1000))
        return f'({answer.get("error") or answer["detail"]})'
    return error.reason


def _error_text(error: Any) -> str:
    if isinstance(error, TimeoutError):
        return 'it does not answer in time'
    return getattr(error, 'strerror', None) or str(error) or type(error).__name__
