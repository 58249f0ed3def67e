"""Tiny random models of Hugging Face's, with what they compute: all in one process, as that takes long to start."""
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.hugging_face import run_hugging_face
from support.published import items_of, load_model
from torch import Tensor

from labml_mlm.published.start import PublishedEncoder

N_TOKENS, LENGTHS = 41, [1, 2, 127, 512]
_SIZES = {'vocab_size': N_TOKENS, 'hidden_size': 32, 'num_hidden_layers': 3, 'num_attention_heads': 4,
          'intermediate_size': 48, 'initializer_range': 0.1}
_BERT = {**_SIZES, 'max_position_embeddings': 512, 'type_vocab_size': 2, 'pad_token_id': 0}
_ROBERTA = {**_SIZES, 'max_position_embeddings': 514, 'type_vocab_size': 1, 'pad_token_id': 1, 'layer_norm_eps': 1e-5}
_MODERN = {**_SIZES, 'max_position_embeddings': 512, 'pad_token_id': 0, 'bos_token_id': 1, 'eos_token_id': 2,
           'cls_token_id': 1, 'sep_token_id': 2, 'local_attention': 16}
_BIASES = dict.fromkeys(['attention_bias', 'mlp_bias', 'norm_bias', 'classifier_bias'], True)
# Classes and configs by name
MODELS = {
    **{f'bert-{activation}': ('BertForMaskedLM', {**_BERT, 'hidden_act': activation})
       for activation in ('gelu', 'gelu_new', 'relu')},
    'bert-pretraining': ('BertForPreTraining', {**_BERT, 'layer_norm_eps': 1e-3}),
    'roberta': ('RobertaForMaskedLM', _ROBERTA),
    'xlm-roberta': ('XLMRobertaForMaskedLM', _ROBERTA),
    'roberta-padding-3': ('RobertaForMaskedLM', {**_ROBERTA, 'pad_token_id': 3, 'max_position_embeddings': 516}),
    'modernbert': ('ModernBertForMaskedLM', _MODERN),
    'modernbert-biases': ('ModernBertForMaskedLM', {**_MODERN, **_BIASES, 'num_hidden_layers': 4}),
    'modernbert-attention-bias': ('ModernBertForMaskedLM', {**_MODERN, 'attention_bias': True}),
    'modernbert-every-2': ('ModernBertForMaskedLM', {**_MODERN, 'global_attn_every_n_layers': 2,
                                                     'hidden_activation': 'relu', 'classifier_activation': 'relu',
                                                     'global_rope_theta': 5000., 'local_rope_theta': 300.}),
    'modernbert-all-global': ('ModernBertForMaskedLM', {**_MODERN, 'layer_types': ['full_attention'] * 3}),
    'modernbert-first-global': ('ModernBertForMaskedLM', {
        **_MODERN, 'num_hidden_layers': 5, 'layer_types': ['full_attention', *['sliding_attention'] * 4]}),
}
_SCRIPT = """
import json, sys
from pathlib import Path
import torch, transformers
from safetensors.torch import load_file, save_file

folder, inputs = Path(sys.argv[1]), load_file(sys.argv[2])
for name, (kind, config) in json.loads(sys.argv[3]).items():
    torch.manual_seed(0)
    class_ = getattr(transformers, kind)
    model = class_(class_.config_class(**config)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    model.save_pretrained(folder / name)
    results = {}
    for n in json.loads(sys.argv[4]):
        mask, labels = inputs[f'mask.{n}'], inputs[f'labels.{n}']
        x = inputs[f'x.{n}'].masked_fill(mask == 0, config['pad_token_id'])
        model.zero_grad()
        output = model(input_ids=x, attention_mask=mask, output_hidden_states=True)
        logits = output.prediction_logits if 'prediction_logits' in output else output.logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        loss.backward()
        results |= {f'logits.{n}': logits.detach(), f'loss.{n}': loss.detach(),
                    f'hidden.{n}': output.hidden_states[-1].detach().clone()}
        results |= {f'gradient.{n}.{key}': p.grad.clone() for key, p in model.named_parameters(remove_duplicate=False)
                    if p.grad is not None}
    save_file(results, folder / name / 'results')
"""


class Published:
    """Models of Hugging Face's and what they have computed."""

    def __init__(self, folder: Path, inputs: dict[str, Tensor]):
        self._folder = folder
        self._inputs = inputs

    def source(self, name: str) -> PublishedEncoder:
        return PublishedEncoder(self._folder / name)

    def results(self, name: str) -> dict[str, Tensor]:
        """`logits.N`, `hidden.N`, `loss.N` and `gradient.N.WEIGHT` for lengths N; `[batch_size, N, …]`."""
        return load_file(self._folder / name / 'results')

    def batch(self, name: str, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, labels and a padding mask, `[n, batch_size]` each."""
        padding_token = MODELS[name][1]['pad_token_id']
        is_padding = (self._inputs[f'mask.{n}'] == 0).T
        labels = self._inputs[f'labels.{n}'].T
        return (self._inputs[f'x.{n}'].T.masked_fill(is_padding, padding_token),
                labels.masked_fill(labels == -100, padding_token), is_padding)


@pytest.fixture(scope='session')
def published(tmp_path_factory, needs_transformers) -> Published:
    folder, generator = tmp_path_factory.mktemp('published'), torch.Generator().manual_seed(2)
    inputs = {}
    for n in LENGTHS:
        # `[batch_size, n]`: a sequence without padding, one with one token of it, one with much
        x = torch.randint(5, N_TOKENS, (3, n), generator=generator)
        mask = torch.arange(n) < torch.tensor([n, max(1, n - 1), max(1, n // 3)])[:, None]
        is_masked = mask & ((torch.rand(3, n, generator=generator) < 0.3) | (torch.arange(n) == 0))
        labels = torch.where(is_masked, x, -100)
        inputs |= {f'x.{n}': x.masked_fill(is_masked, 4), f'mask.{n}': mask.long(), f'labels.{n}': labels}
    save_file(inputs, folder / 'inputs')
    run_hugging_face(_SCRIPT, folder, folder / 'inputs', json.dumps(MODELS), json.dumps(LENGTHS))
    return Published(folder, inputs)


@pytest.fixture
def assert_equal_to_published(published):
    """Asserts that a model of ours has the results of Hugging Face's, by name."""
    def check(name: str):
        source, results = published.source(name), published.results(name)
        model = load_model(source, padding_token=MODELS[name][1]['pad_token_id'])
        for n in LENGTHS:
            x, labels, is_padding = published.batch(name, n)
            close = {'rtol': 1e-5, 'atol': 1e-5}
            for kind, ours in (('hidden', model.encode(x, is_padding)),
                               ('logits', model.predict(x, padding_mask=is_padding))):
                theirs = results[f'{kind}.{n}'].transpose(0, 1)
                torch.testing.assert_close(ours[~is_padding], theirs[~is_padding], **close)
            model.zero_grad()
            output = model(x, labels, padding_mask=is_padding)
            torch.testing.assert_close(output.loss, results[f'loss.{n}'], **close)
            output.loss.backward()
            prefix = f'gradient.{n}.'
            theirs, _ = source.family.read({key.removeprefix(prefix): value for key, value in results.items()
                                            if key.startswith(prefix)}, items_of(source))
            ours = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
            assert ours.keys() == theirs.keys()
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    return check
