from support.browser import browser  # noqa: F401  a fixture
from support.runs import make  # noqa: F401  a fixture
