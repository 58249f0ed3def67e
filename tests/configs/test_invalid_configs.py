import pytest
from support.project import TEXT

from labml_mlm.common.errors import UserError


@pytest.mark.parametrize('given, message', [
    ('seq_len_schedule=5:0.5,16',
     'sequences of seq_len=16 cannot be split into equal parts of 5; try one of 1, 2, 4, 8, 16'),
    ('seq_len_schedule=4:0.5,8', 'the last length must be seq_len=16'),
    ('seq_len_schedule=4:0.5,8:0.2,16', 'must increase'),
    ('seq_len_schedule=short', '`short` is not a stage'),
    ('masking_schedule=linaer', 'Did you mean `linear`?'),
    ('masking=words', 'Did you mean `word`?'),
    ('masking_prob_start=30', 'above 0 to 1'),
    ('lr_decay_fraction=2', 'from 0 to 1'),
    ('lr_schedule=wds', 'Did you mean `wsd`?'),
    ('optimizer.matrices=1', 'those of the encoder'),
    ('optimizer.muon_momentum=1', 'muon_momentum'),
])
def test_command_refuses_invalid_overrides_with_one_line(project, given, message):
    result = project.train(given)
    assert (result.returncode, result.stderr.count('\n')) == (2, 1), result.stderr
    assert message in result.stderr
    assert not project.runs


@pytest.mark.parametrize('values, message', [
    ({'d_model': 30, 'transformer.n_heads': 4}, 'not divisible'),
    ({'seq_len': 100_000}, 'too short'),
    ({'batch_size': 100_000}, 'Use a longer text'),
    ({'n_tokens': 7}, 'n_tokens=7 is less than'),
    ({'randomize_prob': 0.6, 'no_change_prob': 0.6}, 'at most 1'),
    ({'mask_token': 500}, 'not in the vocabulary'),
    ({'text': 'file', 'text_path': ''}, 'text=file needs a file: text_path=PATH'),
    ({'text_path': '/nowhere/at/all.txt'}, '/nowhere/at/all.txt cannot be read: No such file'),
    ({'text': 'folder', 'text_path': ''}, 'text=folder needs a folder: text_path=PATH'),
    ({'text': 'folder', 'text_path': '/nowhere'}, 'there is no folder /nowhere'),
    ({'text': 'file', 'text_path': '/'}, '/ is a folder, not a text file: use text=folder'),
    ({'text_errors': 'ignore'}, 'text_errors=ignore: it must be one of strict, skip, replace'),
    ({'text_unit': 'paragraphs'}, 'text_unit=paragraphs: it must be one of file, paragraph. Did you mean `paragraph`'),
    ({'prompt': ['a', '']}, 'the prompts have 1, 0 tokens'),
    ({'mask_token': 0}, 'they must differ'),
    ({'seq_len_schedule': '3:0.5,16'}, 'cannot be split into equal parts of 3'),
    ({'seq_len_schedule': '6:0.5,6000', 'seq_len': 6000, 'transformer.src_embed': 'learned_pos', 'batch_size': 1,
      'text': 'python_topics'}, 'seq_len=6000 is longer than the position embeddings'),
    ({'text_path': '~nobody_of_that_name/x'}, '~nobody_of_that_name/x: there is no home folder of that name'),
])
def test_invalid_configs_are_refused_before_training(build, values, message):
    with pytest.raises(UserError, match=message):
        build(**values)


def test_sequences_longer_than_the_position_embeddings_are_refused(build, tmp_path):
    path = tmp_path / 'long.txt'
    path.write_text(TEXT * 20)
    with pytest.raises(UserError, match='seq_len=6000 is longer than the position embeddings of this model: 5000'):
        build(text_path=str(path), seq_len=6000, batch_size=1, **{'transformer.encoder_attn': 'sdpa'})
