"""
# A folder of `save_pretrained`

It has a `config.json`, the weights in one file or in several, and the files of a tokenizer. Reading one never runs code
that is in it: of a pickle only tensors are taken.
"""
import pickle
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from labml_mlm.common.errors import UserError
from labml_mlm.common.files import open_ordinary, read_json

CONFIG = 'config.json'
WEIGHTS, INDEX, PICKLE = 'model.safetensors', 'model.safetensors.index.json', 'pytorch_model.bin'
# In the first BERTs
_OLD_NAMES = {'gamma': 'weight', 'beta': 'bias'}


class PublishedFolder:
    """
    ## A published encoder

    * `path` is the folder

    `weights` are those of floating point in fp32, by name. Raises `UserError` if it is no such folder, or if a file is
    missing or damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config = read_json(path / CONFIG)
        self.weights = {_current_name(name): tensor for name, tensor in _read_weights(path)}


def is_published(path: Path) -> bool:
    """Does a folder look like one?"""
    return (path / CONFIG).is_file()


def _current_name(name: str) -> str:
    *rest, last = name.split('.')
    return '.'.join([*rest, _OLD_NAMES.get(last, last)])


def _read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and weights, those of floating point as fp32."""
    # Links to nothing among them
    present = {path.name for path in folder.iterdir()}
    if WEIGHTS in present:
        files = [folder / WEIGHTS]
    elif INDEX in present:
        names = read_json(folder / INDEX).get('weight_map')
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise UserError(f'{folder / INDEX} has no weight_map')
        # Parts lie beside the index
        files = [folder / Path(name).name for name in sorted(set(names.values()))]
    elif PICKLE in present:
        files = [folder / PICKLE]
    else:
        raise UserError(f'{folder} has no weights: neither {WEIGHTS}, {INDEX} nor {PICKLE}')
    for file in files:
        for name, tensor in _tensors(file):
            if tensor.is_floating_point():
                tensor = tensor.float()
                if not tensor.isfinite().all():
                    raise UserError(f'{file}: {name} has values that are not finite')
            yield name, tensor


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        # A pipe would be waited for
        open_ordinary(file, is_link_followed=True).close()
        if file.suffix == '.bin':
            content = torch.load(file, map_location='cpu', weights_only=True)
            if not isinstance(content, dict) or not all(isinstance(name, str) and isinstance(tensor, Tensor)
                                                        for name, tensor in content.items()):
                raise UserError(f'{file} is not a dictionary of tensors')
            yield from content.items()
            return
        with safe_open(file, 'pt') as opened:
            for name in opened.keys():  # noqa: SIM118  it is no dict
                yield name, opened.get_tensor(name)
    except FileNotFoundError:
        raise UserError(f'{file} is missing') from None
    except UserError:
        raise
    except Exception as e:  # a damaged pickle may raise anything
        if isinstance(e, pickle.UnpicklingError) and _is_pickle(file):
            raise UserError(f'{file} has more than tensors in it, such as code, and is not read: a folder with '
                            f'{WEIGHTS} would be') from None
        reason = getattr(e, 'strerror', None) or ('' if isinstance(e, pickle.UnpicklingError) else str(e))
        raise UserError(f'{file} is damaged{": " * bool(reason)}{reason.partition(chr(10))[0]}') from None


def _is_pickle(file: Path) -> bool:
    """Does it begin like one, or like an archive of torch's?"""
    with file.open('rb') as opened:
        return opened.read(2) in (b'PK', b'\x80\x02', b'\x80\x03', b'\x80\x04', b'\x80\x05')
