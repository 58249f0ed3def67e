"""
# Export as a folder of Hugging Face's

It has what `represent` makes of a model, or code of its own, with the files of the tokenizer and a model card, and
`self_check` compares it with the model.
"""
import json
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.export import sentence_transformers
from labml_mlm.export.card import CARD, CURVES, Note, model_card
from labml_mlm.export.custom_code import MODELING, custom_config, custom_weights
from labml_mlm.export.self_check import check_folder, compare_bf16
from labml_mlm.export.sentence import masked_sentence
from labml_mlm.export.target import check_target, new_folder
from labml_mlm.export.tokenizer_files import tokenizer_files
from labml_mlm.inference.pretrained import Pretrained
from labml_mlm.model.pairs import trains_pairs
from labml_mlm.published.folder import CONFIG, WEIGHTS
from labml_mlm.published.represent import NotRepresentable, represent, token_ids

# Of a text that has no bound
_MAX_LENGTH = 512


class Files(NamedTuple):
    """What a folder has."""
    config: dict
    weights: dict[str, Tensor]
    texts: dict[str, str]
    notes: list[Note]


def export_folder(trained: Pretrained, path: Path, *, is_forced: bool = False, is_custom: bool = False,
                  is_sentence_transformers: bool = False, python: str | None = None) -> list[Note]:
    """
    Writes a folder that `from_pretrained` loads. Returns what was compared, and what to know of it.

    * `is_forced` replaces a folder that an export has written before
    * `is_custom` writes it with code of its own, as is done for what no architecture of Hugging Face's can represent
    * `is_sentence_transformers` makes it a `SentenceTransformer`, too
    * `python` is the interpreter that may have `transformers`, as in `check_folder`

    Raises `UserError` if the model cannot be represented, if the folder may not be written, and if what was written is
    not the model; nothing is left behind then.
    """
    trained.require_head()
    check_target(trained, path, is_forced=is_forced)
    files = _custom_files(trained) if is_custom else _files(trained)
    if is_sentence_transformers:
        files = files._replace(
            texts=files.texts | sentence_transformers.files(trained, max_length=_max_length(trained)),
            notes=[*files.notes, *sentence_transformers.similarity(trained)])
    with new_folder(path, is_forced=is_forced) as folder:
        return _write(folder, trained, files, python=python)


def _files(trained: Pretrained) -> Files:
    try:
        shown = represent(trained.model, trained.configs)
    except NotRepresentable as e:
        try:
            files = _custom_files(trained)
        except UserError as other:
            raise UserError(f'{e}; and {other}') from None
        return files._replace(notes=[*files.notes, Note('It comes with code of its own', str(e))])
    family = shown.family
    config = family.config(shown.items) | {'architectures': [shown.architecture], 'model_type': family.model_type}
    has_segments = family.model_type == 'bert'
    notes = [size_note(config, shown.weights), *_notes_on_pairs(trained, shown.architecture)]
    if family.model_type == 'esm':
        notes += compare_bf16(trained, shown.weights)
    return _with_tokenizer(trained, Files(config, shown.weights, {}, notes), has_segments=has_segments)


def _custom_files(trained: Pretrained) -> Files:
    config, weights = custom_config(trained.model), custom_weights(trained.model)
    notes = [size_note(config, weights), Note('To be loaded with trust_remote_code=True'),
             *_notes_on_pairs(trained, config['architectures'][0])]
    files = Files(config, weights, {MODELING.name: MODELING.read_text(encoding='utf-8')}, notes)
    return _with_tokenizer(trained, files, has_segments=False)


def _notes_on_pairs(trained: Pretrained, architecture: str) -> list[Note]:
    """What became of the head for pairs, if there is one that was trained."""
    if not trains_pairs(trained.model):
        return []
    if not architecture.endswith('ForPreTraining'):
        return [Note(f'The head for pairs of sentences is left out: {architecture} has none')]
    means = {'nsp': '0 means that the second text goes on, and 1 that it is another one',
             'sop': 'it was trained on the order of two texts: 0 means that it is right, and 1 that they are swapped'}
    return [Note(f'Of `seq_relationship_logits`, {means[trained.configs.sentence_pairs]}')]


def _with_tokenizer(trained: Pretrained, files: Files, *, has_segments: bool) -> Files:
    texts = tokenizer_files(trained.configs, max_length=_max_length(trained), has_segments=has_segments)
    return files._replace(config=with_origin(trained, files.config), texts=files.texts | texts)


def with_origin(trained: Pretrained, config: dict) -> dict:
    """A config with the ids of special tokens, and with what wrote it."""
    return config | token_ids(trained.configs) | {'dtype': 'float32', 'labml_mlm': version('labml_mlm')}


def size_note(config: dict, weights: dict[str, Tensor]) -> Note:
    """The architecture and its size, for people."""
    n = sum(tensor.numel() for tensor in weights.values())
    return Note(f'{config["architectures"][0]}, {n:,} weights in fp32')


def _max_length(trained: Pretrained) -> int:
    longest = trained.model.max_seq_len
    return int(longest) if longest < float('inf') else max(_MAX_LENGTH, trained.configs.seq_len)


def _write(folder: Path, trained: Pretrained, files: Files, *, python: str | None) -> list[Note]:
    """Writes all files, and compares them with the model. Returns notes for people."""
    write_files(folder, files)
    sentence, notes = None, files.notes
    try:
        sentence = masked_sentence(trained)
    except UserError as e:
        notes = [*notes, Note('No sentence of the validation text was compared', str(e))]
    notes = [*notes, *check_folder(folder, trained, sentence=sentence, is_custom='auto_map' in files.config,
                                   python=python)]
    write_card(folder, trained, files.config, notes)
    return notes


def write_files(folder: Path, files: Files):
    """Writes config, weights and texts."""
    (folder / CONFIG).write_text(json.dumps(files.config, indent=2, sort_keys=True, allow_nan=False) + '\n',
                                 encoding='utf-8')
    weights = {name: tensor.float().contiguous() if tensor.is_floating_point() else tensor.contiguous()
               for name, tensor in files.weights.items()}
    try:
        save_file(weights, folder / WEIGHTS, metadata={'format': 'pt'})
    except SafetensorError as e:
        raise OSError(f'{folder / WEIGHTS}: {e}') from None
    # That of the process, for all files
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)
    for name, text in files.texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding='utf-8')


def write_card(folder: Path, trained: Pretrained, config: dict, notes: list[Note]):
    """Writes the card, and its picture if there is one."""
    text, picture = model_card(trained, config, notes)
    (folder / CARD).write_text(text, encoding='utf-8')
    if picture is not None:
        (folder / CURVES).write_bytes(picture)
