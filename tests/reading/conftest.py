"""Files to read."""
from support.compressed import write  # noqa: F401  a fixture
