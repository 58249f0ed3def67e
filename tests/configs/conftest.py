import pytest


@pytest.fixture
def train_steps():
    def train_steps(conf, n):
        with conf.mode.update(is_train=True):
            for index, batch in zip(range(n), conf.train_loader, strict=False):
                conf.step(batch, index)
    return train_steps
