import pytest

from labml_mlm.tracking.client import Undelivered
from labml_mlm.tracking.removal import remove_from_app


def test_only_what_the_app_has_is_removed(app):
    uuid = 'ababababababab'
    app.update(uuid, {'name': 'test', 'time': 0})
    url = f'{app.app_url}/track?'
    assert remove_from_app([uuid, 'cdcdcdcdcdcdcd'], url) == [uuid]
    assert remove_from_app([uuid], url) == []


def test_an_app_that_does_not_answer(app):
    with pytest.raises(Undelivered, match='Connection refused'):
        remove_from_app(['feed'], 'http://localhost:1/api/v1/default/track?')
