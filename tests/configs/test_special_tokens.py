"""Runs with special tokens around windows."""
import itertools

import pytest
import torch
from support.project import TEXT, values_of
from tokenizers import Tokenizer, models, pre_tokenizers

from labml_mlm import MLM, load
from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Template
from labml_mlm.tokenization.subword import SubwordTokenizer

CLS_SEP = Template((2,), (3,))
BERT = {'transformer': 'bert', 'transformer.max_positions': 24}


@pytest.mark.parametrize('values, template', [
    ({}, Template()), ({'add_special_tokens': True}, CLS_SEP), ({'transformer': 'bert'}, CLS_SEP),
    ({'transformer': 'roberta'}, CLS_SEP), ({'transformer': 'modernbert'}, CLS_SEP),
    ({'transformer': 'bert', 'add_special_tokens': False}, Template())])
def test_auto_follows_the_transformer(build, values, template):
    assert build(**values)._template == template


def without_template():
    """A tokenizer that has no `[CLS]`."""
    names = ['[PAD]', '[UNK]', '[SEP]', '[MASK]', *sorted(set(TEXT.split()))]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token='[UNK]'))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(names[:4])
    return SubwordTokenizer(tokenizer)


def test_tokenizer_without_special_tokens_to_add(build):
    assert build(tokenizer=without_template(), **BERT)._template == Template()
    with pytest.raises(UserError, match='add_special_tokens=true: the tokenizer has no special tokens to put around'):
        build(tokenizer=without_template(), add_special_tokens=True)


@pytest.mark.parametrize('values, message', [
    ({'seq_len_schedule': '4:0.5,16'}, 'seq_len_schedule splits windows, .* use add_special_tokens=false'),
    ({'seq_len': 2}, 'seq_len=2 leaves no room for text'),
    ({'prompt': ['the quick brown fox jump']}, 'the prompts have 24 tokens: .* at most what the model takes, 22'),
    ({'seq_len': 25}, 'seq_len=25 is longer than the position embeddings of this model: 24')])
def test_what_special_tokens_do_not_allow_is_refused(build, values, message):
    with pytest.raises(UserError, match=message):
        build(**BERT, **values)


@pytest.mark.parametrize('packing', ['stream', 'documents'])
@pytest.mark.parametrize('masking', ['token', 'word', 'span'])
def test_special_tokens_are_never_masked_and_no_span_goes_across(build, packing, masking):
    texts = tuple(TEXT[:i % 70 + 5] for i in range(99))
    conf = build(text=texts, packing=packing, masking=masking, masking_prob=0.5, **BERT)
    special = torch.tensor([2, 3])
    for _ in range(3):
        for batch in conf.train_loader:
            assert (batch.tokens == 2).any(dim=0).all()
            if conf.mlm.units is not None:
                starts = conf.mlm.units(batch.tokens, conf.mlm._rand)
                is_special = torch.isin(batch.tokens, special)
                assert starts[is_special].all() and starts[1:][is_special[:-1]].all()
            for mlm in (conf.mlm, conf.valid_mlm):
                masked, labels = mlm(batch.tokens)
                is_kept = torch.isin(batch.tokens, special)
                assert torch.equal(masked[is_kept], batch.tokens[is_kept]) and not labels[is_kept].any()
                # Nor is another token replaced by one
                assert not torch.isin(masked[~is_kept], special).any() and labels.any()


def test_tokens_of_a_template_are_unmasked_whatever_the_tokenizer_calls_special(build):
    class Own:
        """A tokenizer whose template is of tokens that are not special."""
        template = Template((9,), (11,))

        def __init__(self, tokenizer):
            for name in ('n_tokens', 'special', 'tokens', 'encode', 'decode', 'encode_documents', 'to_dict', 'unknown'):
                setattr(self, name, getattr(tokenizer, name))

    conf = build(tokenizer=Own(build().tokenizer), add_special_tokens=True)
    assert {9, 11} <= set(conf._unmasked_tokens) and not conf.mlm.is_maskable[[9, 11]].any()


@pytest.mark.parametrize('packing', ['stream', 'documents'])
def test_steps_count_tokens_of_the_text_on_any_number_of_ranks(project, packing):
    texts = project.path / 'texts'
    texts.mkdir()
    for i in range(40):
        (texts / f'{i}.txt').write_text(TEXT[:30 + 7 * i])
    # Without dropout
    arguments = [f'text_path={texts}', 'transformer=modernbert', 'transformer.n_layers=1', 'd_model=16',
                 'transformer.n_heads=2', 'seq_len=16', 'batch_size=8', 'epochs=1', 'n_prompts=1', f'packing={packing}']
    single = project.run(*arguments, env={'RUN_UUID': 'one'})
    assert single.returncode == 0, single.stderr
    job = project.ranks(2, *arguments, env={'RUN_UUID': 'two'})
    assert [result.returncode for result in job.wait(100)] == [0, 0]
    one, two = (values_of(project.path / f'logs/test/{name}/log.jsonl')['loss.train'] for name in ('one', 'two'))
    assert [step for step, _ in one] == [step for step, _ in two]
    assert [loss for _, loss in one] == pytest.approx([loss for _, loss in two], abs=2e-5)
    conf = load(project.path / 'logs/test/one').configs
    last = one[-1][0]
    if packing == 'stream':
        assert last == len(conf.train_tokens) // 14 * 14
    else:
        # All but the separators of documents, which are special tokens here
        assert last == len(conf.train_tokens) - len(conf.train_document_ends)
        efficiency = [value for _, value in values_of(project.path / 'logs/test/one/log.jsonl')['efficiency.train']]
        assert all(0.3 < value <= 1 for value in efficiency)


def test_validation_text_shorter_than_a_window_is_one_window(build):
    conf = build(valid_tokens=torch.arange(5, 14), add_special_tokens=True)
    [batch] = conf.valid_loader
    assert batch.tokens[:, 0].tolist() == [2, *range(5, 14), 3] and batch.n_tokens == 9


@pytest.mark.parametrize('values', [{'prompt': ['the quick', 'brown fox']}, {'n_prompts': 2},
                                    {'n_prompts': 2, 'packing': 'documents'}])
def test_prompts_are_shown_without_the_special_tokens_that_the_model_sees(build, values):
    conf = build(text=(TEXT[:30],) * 30, **values, **BERT)
    seen, predict = [], conf.model.predict
    conf.model.predict = lambda x: seen.append(x) or predict(x)
    samples = conf.sampler.fill(conf.model, conf.device)
    assert len(samples) == len(seen) == 2
    for x, sample, (masked, labels) in zip(seen, samples, conf.sampler.masked, strict=True):
        assert x[:, 0].tolist() == [2, *masked[:, 0].tolist(), 3]
        assert not {'[CLS]', '[MASK]'} & set(sample.tokens) and len(sample.tokens) == len(masked) > 0
        with torch.no_grad():
            # Special tokens are never predicted
            best = predict(x)[1:-1, 0, 5:len(conf.tokenizer.tokens)].argmax(dim=-1) + 5
        positions = labels[:, 0].nonzero()[:, 0].tolist()
        assert sample.positions == positions
        assert sample.filled == [conf.tokenizer.tokens[best[position]] for position in positions]
    if 'prompt' in values:
        assert [''.join(sample.tokens) for sample in samples] == values['prompt']


def test_prompts_from_a_loader_of_ones_own_are_seen_as_they_are(build):
    tokens = torch.randint(5, 20, (16, 8))
    conf = build(valid_loader=(tokens,), n_prompts=1, **BERT)
    assert conf.sampler.template == Template() and torch.equal(conf.sampler.prompts[0], tokens[:, 0])


def test_window_of_a_run_without_special_tokens_is_a_tensor(build):
    """As in all runs before there was a choice."""
    conf = build()
    for loader in (conf.train_loader, conf.valid_loader):
        assert all(isinstance(batch, torch.Tensor) for batch in itertools.islice(loader, 3))
    assert type(conf.mlm) is MLM and conf._unmasked_tokens == [0, 1, 2, 3, 4]
