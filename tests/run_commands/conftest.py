from support.runs import make  # noqa: F401  a fixture
