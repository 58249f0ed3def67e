"""The run of a job that torchrun restarts."""
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from labml_mlm.launch import resume


@pytest.fixture
def start(monkeypatch):
    """Starts a process of a job, as torchrun does again after a failure."""
    store = dist.HashStore()
    monkeypatch.setattr(resume, 'job_store', lambda: store)
    monkeypatch.setattr(resume, 'Run', lambda path: SimpleNamespace(snapshot={} if path.exists() else None))
    return lambda: monkeypatch.setattr(resume, '_n_looked_for', 0)


def test_each_run_of_a_process_is_found_again_after_a_restart(start, tmp_path):
    uuids = ['feed0', 'feed1']
    start()
    for uuid in uuids:
        # The first one is not taken for the second
        assert resume.run_of_job(tmp_path) is None
        (tmp_path / uuid).mkdir()
        resume.set_run_of_job(uuid)
    start()
    assert [resume.run_of_job(tmp_path) for _ in range(3)] == [*uuids, None]
