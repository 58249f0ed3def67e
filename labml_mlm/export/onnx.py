"""
# A model in ONNX

`torch.export` follows the computation with symbols for the batch size and the length, so that the file has both as
inputs come. Rotary positions would be those of one length, as attention keeps them from call to call; `_AnyLength` puts
the computation of them in that place.

The file is compared with the model before it is written.
"""
import contextlib
import copy
import io
import json
import logging
import math
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import write_atomically
from labml_mlm.finetuning.heads import TextHead
from labml_mlm.inference.fine_tuned import FineTuned
from labml_mlm.inference.pretrained import Pretrained
from labml_mlm.model.attention import SDPA, rope_rotations
from labml_mlm.model.transformer import TransformerMLM

if TYPE_CHECKING:
    from onnx import ModelProto

SUFFIX = '.onnx'
_INPUTS = ['input_ids', 'attention_mask']
# Largest difference that is allowed
_TOLERANCE = 1e-4
# A file of this kind is shorter
_MAX_BYTES = 2 ** 31


def export_onnx(pretrained: Pretrained, path: Path, *, is_encoder: bool = False) -> list[str]:
    """
    Writes a model, or its encoder alone. Inputs are `input_ids` and `attention_mask`, 1 or 0, `[batch, length]`, and
    for pairs `token_type_ids` if the model tells the two texts apart. The output is `logits`,
    `[batch, length, n_tokens]`, or `last_hidden_state`, `[batch, length, d_model]`. A fine-tuned model gives logits of
    its labels, `[batch, n_labels]`, or the numbers that it predicts, `[batch, 1]`; a tagger gives those of each token,
    `[batch, length, n_labels]`.

    Returns lines that say what was compared. Raises `UserError` if the extra `onnx` is not installed, if the model has
    no head or cannot be written so, and if the results differ by more than 1e-4; then there is no file, or the one
    before.
    """
    is_fine_tuned = isinstance(pretrained, FineTuned)
    if not is_encoder and not is_fine_tuned:
        pretrained.require_head()
    if path.suffix.lower() != SUFFIX:
        raise UserError(f'{path}: the name of a file in ONNX ends with {SUFFIX}')
    if not path.parent.is_dir():
        raise UserError(f'{path}: there is no folder {path.parent}')
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise UserError(f"an export to ONNX needs onnx, onnxscript and onnxruntime ({e}): "
                        f"pip install 'labml_mlm[onnx]'") from None
    # Attentions keep tensors from call to call, and these would be symbols
    model = copy.deepcopy(pretrained.model).cpu().eval()
    if is_fine_tuned:
        model.generator = model.plain_head()
    n_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    if n_bytes >= _MAX_BYTES:
        raise UserError(f'{path}: the model has {n_bytes:,} bytes, and a file in ONNX less than {_MAX_BYTES:,}')
    has_segments = is_fine_tuned and pretrained.is_of_pairs and model.n_segments > 1
    module = _BatchFirst(model, is_encoder=is_encoder, has_segments=has_segments)
    proto = _convert(module, length=int(min(17, model.max_seq_len)))
    _describe(proto, pretrained, model)
    data = proto.SerializeToString()
    lines = _compare(data, module, lengths=_lengths(pretrained.configs.seq_len, model.max_seq_len),
                     n_tokens=pretrained.configs.n_tokens)
    write_atomically(path, data)
    return lines


class _BatchFirst(nn.Module):
    """A model as the file has it."""

    def __init__(self, model: TransformerMLM, *, is_encoder: bool, has_segments: bool = False):
        super().__init__()
        self.model = model
        self.is_encoder = is_encoder
        self.input_names = [*_INPUTS, 'token_type_ids'] if has_segments else _INPUTS
        self.output_name = 'last_hidden_state' if is_encoder else 'logits'
        # Logits of texts, and not of tokens
        self.is_of_texts = not is_encoder and isinstance(model.generator, TextHead)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Arguments have shape `[batch_size, seq_len]`; returns `[batch_size, seq_len, …]`, or `[batch_size, …]`."""
        x, padding_mask = input_ids.T, attention_mask.T == 0
        segment_ids = None if token_type_ids is None else token_type_ids.T
        if self.is_encoder:
            return self.model.encode(x, padding_mask, segment_ids=segment_ids).transpose(0, 1)
        logits = self.model.predict(x, padding_mask=padding_mask, segment_ids=segment_ids)
        return logits if self.is_of_texts else logits.transpose(0, 1)


class _AnyLength(nn.Module):
    """The same, with rotary positions that are computed for each batch."""

    def __init__(self, module: _BatchFirst):
        super().__init__()
        self.module = module
        self.rotary = {f'{name}.rope_cache': (attention.heads, attention.d_k, attention.rope_base)
                       for name, attention in module.named_modules()
                       if isinstance(attention, SDPA) and attention.is_rotary}

    def forward(self, input_ids: Tensor, *others: Tensor) -> Tensor:
        """As that of `_BatchFirst`."""
        # Most layers share theirs
        rotations = {key: rope_rotations(input_ids.shape[1], *key) for key in set(self.rotary.values())}
        caches = {name: rotations[key] for name, key in self.rotary.items()}
        return torch.func.functional_call(self.module, caches, (input_ids, *others))


def _convert(module: _BatchFirst, *, length: int) -> 'ModelProto':
    """The model in ONNX, tried with a batch of some length."""
    example = (torch.zeros(2, length, dtype=torch.long), *(torch.ones(2, length, dtype=torch.long)
                                                            for _ in module.input_names[1:]))
    disabled = logging.root.manager.disable
    try:
        # Where one way to follow the model fails, torch prints and logs what it has, and tries another
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter('ignore')
            logging.disable()
            program = torch.onnx.export(
                _AnyLength(module).eval(), example, dynamo=True, verbose=False, input_names=module.input_names,
                output_names=[module.output_name], dynamic_shapes=_shapes(len(example)))
    except torch.onnx.OnnxExporterError as e:
        while e.__cause__ is not None:
            e = e.__cause__
        raise UserError(f'this model cannot be written in ONNX: {type(e).__name__}: '
                        f'{(str(e).strip() or "without a message").splitlines()[0]}') from None
    finally:
        logging.disable(disabled)
    return program.model_proto


def _shapes(n: int) -> tuple:
    """Of n inputs, the last of which are the rest of the arguments."""
    shape = {0: 'batch', 1: 'length'}
    return shape, (shape,) * (n - 1)


def _describe(proto: 'ModelProto', pretrained: Pretrained, model: TransformerMLM):
    """Says what the file is, and removes what the exporter says about the code here."""
    from onnx import helper

    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
    proto.producer_name, proto.producer_version = 'labml_mlm', version('labml_mlm')
    properties = {'n_tokens': pretrained.configs.n_tokens, 'padding_token': model.padding_token,
                  'mask_token': pretrained.configs.mask_token}
    if pretrained.checkpoint is not None:
        path = pretrained.checkpoint.path.resolve()
        properties['run'] = path.parent.parent.name if path.parent.name == 'checkpoints' else path.name
    if isinstance(pretrained, FineTuned):
        properties |= {'kind': pretrained.kind, 'labels': json.dumps(pretrained.labels, ensure_ascii=False)}
    if math.isfinite(model.max_seq_len):
        properties['max_length'] = model.max_seq_len
    helper.set_model_props(proto, {name: str(value) for name, value in properties.items()})


def _lengths(seq_len: int, longest: float) -> list[int]:
    """Those at which to compare: up to twice the run's, if there are positions for that."""
    return sorted({n for n in (1, 2, 17, seq_len, int(min(2 * seq_len, longest))) if n <= longest})


@torch.no_grad()
def _compare(data: bytes, module: _BatchFirst, *, lengths: list[int], n_tokens: int) -> list[str]:
    """Lines with the differences by length. Raises `UserError` if one is too large."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    generator, lines = torch.Generator().manual_seed(0), []
    try:
        session = onnxruntime.InferenceSession(data, options, providers=['CPUExecutionProvider'])
        for n in lengths:
            differences = []
            # One sequence, and three, of which two end in padding
            for ends in ([n], [n, n // 2 + 1, 1]):
                ids = torch.randint(n_tokens, (len(ends), n), generator=generator)
                mask = (torch.arange(n) < torch.tensor(ends)[:, None]).long()
                segments = torch.randint(2, ids.shape, generator=generator)
                given = (ids, mask, segments)[:len(module.input_names)]
                [found] = session.run(None, {name: part.numpy() for name, part in zip(module.input_names, given,
                                                                                      strict=True)})
                off = (module(*given) - torch.from_numpy(found)).abs()
                # What is computed at padding has no meaning
                differences.append(off.max() if module.is_of_texts else off[mask.bool()].max())
            difference = torch.stack(differences).max().item()
            # That of what is not a number is none
            if not difference <= _TOLERANCE:
                raise UserError(f'the file differs from the model: {module.output_name} by {difference:.2g} at length '
                                f'{n}, where {_TOLERANCE} is allowed')
            lines.append(f'length {n}: {module.output_name} of onnxruntime {onnxruntime.__version__} differ by '
                         f'{difference:.1e} at most')
    except UserError:
        raise
    except Exception as e:  # of onnxruntime's own classes, which have no name in its interface
        raise UserError(f'onnxruntime {onnxruntime.__version__} cannot run the file: '
                        f'{str(e).splitlines()[0]}') from None
    return lines
