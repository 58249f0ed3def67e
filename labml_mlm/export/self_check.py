"""
# Is what was written the model?

A folder is read back, by our own reader and by `transformers` where that can be imported, and its logits are compared
with those of the run: at several lengths, with padding, and on a sentence with a mask.

`transformers` runs in a process of its own. Where its import fails, as beside a torchvision of another torch, nothing
of that is left here.
"""
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from labml_mlm.common.errors import UserError
from labml_mlm.export.card import Note
from labml_mlm.export.sentence import Sentence
from labml_mlm.inference.loading import load
from labml_mlm.inference.pretrained import Pretrained
from labml_mlm.model.pairs import has_pairs, trains_pairs

# The environment variable with a Python that has transformers
PYTHON = 'LABML_MLM_TRANSFORMERS_PYTHON'
# The largest difference of logits, in multiples of the largest logit if that is above 1
_TOLERANCE = 1e-4
_LENGTHS = 1, 2, 17, 127, 512
# Seconds that transformers may take
_TIMEOUT = 600
_SCRIPT = '''
import json, sys
folder, is_custom, auto = sys.argv[1], sys.argv[2] == 'custom', sys.argv[3]
try:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
    from transformers import CONFIG_MAPPING, AutoModel, AutoModelForPreTraining, AutoTokenizer, __version__
    config = json.load(open(folder + '/config.json'))
    kind = config['model_type']
    if not is_custom and kind not in CONFIG_MAPPING:
        raise ImportError(f'transformers {__version__} has no {kind}')
except Exception as e:
    print(f'{type(e).__name__}: {e}'.splitlines()[0])
    sys.exit(3)
torch.set_grad_enabled(False)
model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=is_custom).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=is_custom)
given, found = load_file('given.safetensors'), {}
for name in sorted(name for name in given if name.startswith('ids')):
    batch = {'input_ids': given[name], 'attention_mask': given[name.replace('ids', 'mask')]}
    if (segments := name.replace('ids', 'segments')) in given:
        batch['token_type_ids'] = given[segments]
    found[name] = model(**batch).logits.contiguous()
if auto == 'AutoModelForMaskedLM':
    # Of the last one, with padding
    encoder = AutoModel.from_pretrained(folder, trust_remote_code=is_custom).eval()
    found['hidden'] = encoder(**batch).last_hidden_state.contiguous()
if config['architectures'][0].endswith('ForPreTraining'):
    # A head for pairs, of the second half as another text
    model = AutoModelForPreTraining.from_pretrained(folder).eval()
    batch['token_type_ids'] = (torch.arange(batch['input_ids'].shape[1]) >= batch['input_ids'].shape[1] // 2) * 1
    batch['token_type_ids'] = batch['token_type_ids'].expand_as(batch['input_ids'])
    found['pairs'] = model(**batch).seq_relationship_logits.contiguous()
texts = json.load(open('texts.json'))
found['sentence'] = torch.tensor(tokenizer(*texts).input_ids if texts else [0])
save_file(found, 'found.safetensors')
print(__version__)
'''


class Sequences(NamedTuple):
    """Token ids and a mask that is 1 where they are no padding, `[batch_size, seq_len]` each."""
    ids: Tensor
    mask: Tensor
    # Which text of a pair a token belongs to, if the model tells them apart
    segments: Tensor | None = None


class NotCompared(Exception):
    """Why transformers could not be asked."""

    @property
    def notes(self) -> list[Note]:
        """The same for people."""
        return [Note('Not compared with transformers', str(self)),
                Note(f'{PYTHON}=PATH names another Python, which has it')]


def check_folder(folder: Path, trained: Pretrained, *, sentence: Sentence | None, is_custom: bool = False,
                 python: str | None = None) -> list[Note]:
    """
    Compares a folder with the model that it was written from. Returns what was compared.

    * `is_custom`: does it come with code of its own?
    * `python` is the interpreter that may have `transformers`; by default, the one that `LABML_MLM_TRANSFORMERS_PYTHON`
      names, or this one

    Raises `UserError` on a difference.
    """
    sequences = make_sequences(trained, sentence)
    expected = [logits_of(trained, given) for given in sequences]
    again = load(folder, device=trained.device)
    if trains_pairs(trained.model) and has_pairs(again.model) and \
            not pair_logits_of(again, sequences[-1]).equal(pair_logits_of(trained, sequences[-1])):
        raise UserError('what was written and read back has other logits of pairs than the model')
    for given, logits in zip(sequences, expected, strict=True):
        if not logits_of(again, given).equal(logits):
            raise UserError('what was written and read back has other logits than the model')
    lengths = ', '.join(str(given.ids.shape[1]) for given in sequences[sentence is not None:-1])
    read = Note(f'Read back with equal logits: {lengths} tokens, padding{", a sentence" * (sentence is not None)}')
    return [read, *_by_transformers(folder, trained, sequences, expected, sentence=sentence, is_custom=is_custom,
                                    python=python)]


def make_sequences(trained: Pretrained, sentence: Sentence | None) -> list[Sequences]:
    """Random tokens at several lengths, the last with padding; and a sentence before them."""
    generator = torch.Generator().manual_seed(0)
    longest = int(min(trained.model.max_seq_len, max(_LENGTHS)))
    found = [] if sentence is None else [sentence.ids[None]]
    lengths = sorted({n for n in _LENGTHS if n < longest} | {longest})
    drawn = [torch.randint(trained.tokenizer.n_tokens, (2, n), generator=generator) for n in lengths]
    # RoBERTa counts positions by what is not [PAD], wherever that is
    found += [ids.where(ids != trained.model.padding_token, trained.configs.mask_token) for ids in drawn]
    masks = [torch.ones_like(ids) for ids in found]
    # Padding at the end of one of them
    found.append(found[-1].clone())
    masks.append(torch.ones_like(found[-1]))
    found[-1][1, found[-1].shape[1] // 2 + 1:] = trained.model.padding_token
    masks[-1][1, found[-1].shape[1] // 2 + 1:] = 0
    return [Sequences(ids, mask) for ids, mask in zip(found, masks, strict=True)]


@torch.no_grad()
def logits_of(trained: Pretrained, given: Sequences) -> Tensor:
    """Logits in fp32 on the CPU, `[batch_size, seq_len, n_tokens]`, 0 at padding."""
    padding = None if given.mask.all() else (given.mask == 0).T.to(trained.device)
    logits = trained.model.predict(given.ids.T.to(trained.device), padding_mask=padding).transpose(0, 1).float().cpu()
    return logits * given.mask[..., None]


@torch.no_grad()
def pair_logits_of(trained: Pretrained, given: Sequences) -> Tensor:
    """Those of pairs, where the second half is another text, in fp32 on the CPU, `[batch_size, 2]`."""
    x = given.ids.T.to(trained.device)
    segment_ids = None
    if trained.model.n_segments > 1:
        segment_ids = (torch.arange(len(x), device=x.device) >= len(x) // 2)[:, None].long().expand_as(x)
    padding = (given.mask == 0).T.to(trained.device)
    return trained.model.predict_pairs(x, padding_mask=padding, segment_ids=segment_ids).float().cpu()


@torch.no_grad()
def _by_transformers(folder: Path, trained: Pretrained, sequences: Sequence[Sequences], expected: Sequence[Tensor], *,
                     sentence: Sentence | None, is_custom: bool, python: str | None) -> list[Note]:
    """`expected` are logits of `sequences`. Raises `UserError` on a difference."""
    try:
        found, version = ask_transformers(folder, sequences, auto='AutoModelForMaskedLM', is_custom=is_custom,
                                          texts=[sentence.text] if sentence else [], python=python)
    except NotCompared as e:
        return e.notes
    if sentence is not None:
        compare_tokens(found['sentence'], sentence.ids, sentence.text)
    off = [relative_difference(found[f'ids{i:02}'], logits, given.mask, of='logits')
           for i, (given, logits) in enumerate(zip(sequences, expected, strict=True))]
    last = sequences[-1]
    padding = (last.mask == 0).T.to(trained.device)
    hidden = trained.model.encode(last.ids.T.to(trained.device), padding).transpose(0, 1).float().cpu()
    relative_difference(found['hidden'], hidden * last.mask[..., None], last.mask, of='hidden states')
    if 'pairs' in found:
        ours = pair_logits_of(trained, last)
        relative_difference(found['pairs'][:, None], ours[:, None], torch.ones(len(ours), 1), of='logits of pairs')
    return [equal_note(version, max(off))]


def equal_note(version: str, off: float) -> Note:
    """That transformers of some version has the same, to the largest difference."""
    return Note(f'transformers {version} has the same, to {off:.1e} of the largest logit')


def ask_transformers(folder: Path, sequences: Sequence[Sequences], *, auto: str, is_custom: bool, texts: Sequence[str],
                     python: str | None) -> tuple[dict[str, Tensor], str]:
    """
    What a folder gives in transformers, and the version of that. There are logits of all sequences, by `ids00` and so
    on; the token ids of `texts`, one text or a pair, as `sentence`; and for masked tokens hidden states of the last
    sequences, as `hidden`.

    * `auto` is the class that loads it
    * `python` is as in `check_folder`

    Raises `NotCompared` if it cannot be asked, and `UserError` if the folder cannot be loaded.
    """
    python = python or os.environ.get(PYTHON) or sys.executable
    with tempfile.TemporaryDirectory(prefix='labml_mlm-') as exchange:
        tensors = {f'{name}{i:02}': getattr(given, name).contiguous() for i, given in enumerate(sequences)
                   for name in given._fields if getattr(given, name) is not None}
        save_file(tensors, Path(exchange) / 'given.safetensors')
        (Path(exchange) / 'texts.json').write_text(json.dumps(texts))
        try:
            done = subprocess.run([python, '-c', _SCRIPT, folder.absolute(), 'custom' * is_custom, auto],
                                  cwd=exchange, env=_environment(python, exchange), text=True, capture_output=True,
                                  timeout=_TIMEOUT)
        except OSError as e:
            raise NotCompared(f'{python}: {e.strerror}') from None
        except subprocess.TimeoutExpired:
            raise NotCompared(f'it took more than {_TIMEOUT} s') from None
        if done.returncode == 3:
            raise NotCompared(done.stdout.strip())
        if done.returncode < 0:
            raise NotCompared(f'it was ended by signal {-done.returncode}')
        if done.returncode:
            last = (done.stderr.strip() or '?').splitlines()[-1]
            raise UserError(f'transformers cannot load what was written: {last}')
        return load_file(Path(exchange) / 'found.safetensors'), done.stdout.split()[-1]


def compare_tokens(theirs: Tensor, ours: Tensor, text: str):
    """Raises `UserError` if a text has other token ids in transformers."""
    if theirs.tolist() != ours.tolist():
        raise UserError(f'transformers gives {text!r} the tokens {theirs.tolist()} in place of {ours.tolist()}')


def relative_difference(theirs: Tensor, ours: Tensor, mask: Tensor | None, *, of: str) -> float:
    """
    That of values, by the largest of them. With a `mask` they have shape `[batch_size, seq_len, …]`, and are 0 at
    padding here. Raises `UserError` if it is too large.
    """
    theirs = theirs.float() if mask is None else theirs.float() * mask[..., None]
    off = (theirs - ours).abs().max() / ours.abs().max().clamp(min=1)
    if not off <= _TOLERANCE:
        raise UserError(f'in transformers, {of} are off by {off:.1e} of the largest')
    return off.item()


def _environment(python: str, exchange: str) -> dict[str, str]:
    """Nothing is asked of a network, or left in the cache of Hugging Face. Another Python has packages of its own."""
    kept = {name: value for name, value in os.environ.items()
            if python == sys.executable or not name.startswith('PYTHON')}
    return {**kept, 'HF_HUB_OFFLINE': '1', 'HF_MODULES_CACHE': f'{exchange}/modules'}


@torch.no_grad()
def compare_bf16(trained: Pretrained, weights: dict[str, Tensor]) -> list[Note]:
    """
    What the head of ESM loses in bf16, on random tokens.

    * `weights` are those of the folder, by ESM's names
    """
    ids = make_sequences(trained, None)[-2].ids
    hidden = trained.model.encode(ids.T.to(trained.device)).cpu()
    head = {name.removeprefix('lm_head.'): tensor for name, tensor in weights.items() if name.startswith('lm_head.')}
    logits = functional.linear(hidden, head['decoder.weight'], head['bias'])
    hidden, head = hidden.bfloat16(), {name: tensor.bfloat16() for name, tensor in head.items()}
    plain = functional.linear(hidden, head['decoder.weight'], head['bias']).float()
    x = functional.gelu(functional.linear(hidden, head['dense.weight'], head['dense.bias']))
    x = functional.layer_norm(x, x.shape[-1:], head['layer_norm.weight'], head['layer_norm.bias'])
    folded = functional.linear(x, head['decoder.weight'], head['bias']).float()
    off, off_plain = ((part - logits).abs().max() for part in (folded, plain))
    same = (folded.argmax(-1) == logits.argmax(-1)).float().mean()
    return [Note(f'In bf16: logits off by {off:.2f} (a linear head: {off_plain:.2f}), {same:.1%} of predictions equal'),
            Note('So use it in fp32; for 16 bits, export with --custom-code')]
