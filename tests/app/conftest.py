import pytest


@pytest.fixture
def uuid(request):
    """The uuid of a run of this test alone, as all tests share the app."""
    return f'{abs(hash(request.node.name)):032x}'
