"""A folder that is a `SentenceTransformer`, too; `test_hugging_face` has what it encodes."""
import json
import re

import torch
from support.exports import NO_PYTHON

import labml_mlm
from labml_mlm.export.folder import export_folder
from labml_mlm.export.sentence_transformers import similarity


def test_files_say_mean_pooling(folders):
    for name, longest in (('esm', 512), ('bert', 512)):
        modules = json.loads((folders[name] / 'modules.json').read_text())
        assert [module['path'] for module in modules] == ['', '1_Pooling']
        pooling = json.loads((folders[name] / '1_Pooling/config.json').read_text())
        assert pooling['word_embedding_dimension'] == 32
        assert [kind for kind, is_on in pooling.items() if is_on is True] == ['pooling_mode_mean_tokens']
        assert json.loads((folders[name] / 'sentence_bert_config.json').read_text())['max_seq_length'] == longest


def cosine(notes) -> float:
    return float(re.fullmatch(r'\d+ random texts have a mean cosine of (-?[\d.]+); at 1 they are the same',
                              str(notes[0]))[1])


def test_a_line_says_how_far_apart_random_texts_are(run, exports, tmp_path):
    notes = similarity(run)
    assert str(notes[1]) == 'Without fine-tuning such vectors are often poor'
    # The same by hand
    vectors = []
    for batch in run.validation_batches():
        vectors += run.model.encode(batch).mean(dim=0).detach()
    similarities = torch.nn.functional.cosine_similarity(torch.stack(vectors)[:, None], torch.stack(vectors), dim=-1)
    n = len(vectors)
    assert 2 < n <= 64 and f'{n} random texts' in str(notes[0])
    assert abs(cosine(notes) - (similarities.sum() - n).item() / (n * (n - 1))) < 0.006
    exported = export_folder(run, tmp_path / 'out', is_sentence_transformers=True, python=NO_PYTHON)
    assert str(notes[0]) in map(str, exported)
    assert str(notes[0]) in (tmp_path / 'out/README.md').read_text()
    assert not [note for note in export_folder(run, tmp_path / 'plain', python=NO_PYTHON) if 'cosine' in str(note)]


def test_padding_is_no_part_of_a_vector(exports):
    """Packed documents leave padding at the end of windows."""
    packed = labml_mlm.load(exports.path / 'logs/test/beef')
    batch = packed.configs.batch_reader(next(iter(packed.validation_batches())), is_own=False)
    assert batch.padding_mask is not None
    before = cosine(similarity(packed))
    packed.model.src_embed.tokens.weight.data[packed.configs.padding_token] = 9.
    assert cosine(similarity(packed)) == before


def test_without_a_text_it_says_why(models):
    [note] = similarity(models['esm'])
    assert str(note) == ('How far apart random texts are was not measured: a model is no run, and has no validation '
                         'set')
