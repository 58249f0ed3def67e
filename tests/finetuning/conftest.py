import pytest
from support.labelled import animal, write_texts

from labml_mlm import ClassificationConfigs


@pytest.fixture
def fine_tune(build, tmp_path):
    """Configs of fine-tuning that were built; by default on 80 texts with one of two labels."""
    def fine_tune(class_=ClassificationConfigs, *, label=animal, n=80, **values):
        if 'text_path' not in values:
            values['text_path'] = str(write_texts(tmp_path / 'rows.jsonl', n, label))
        return build(class_, **{'seq_len': 64, **values})
    return fine_tune
