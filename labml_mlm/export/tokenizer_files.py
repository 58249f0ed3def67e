"""
# A tokenizer as Hugging Face's files

`tokenizer.json` is what `tokenizers` reads; the other two say which tokens are special and how long a text may be.
"""
import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from labml_mlm.common.errors import UserError
from labml_mlm.configs.mlm import MLMConfigs
from labml_mlm.data.batch import PairTemplate
from labml_mlm.tokenization.base import SpecialTokens
from labml_mlm.tokenization.character import CharacterTokenizer
from labml_mlm.tokenization.subword import FILE, SubwordTokenizer

_CONFIG, _SPECIAL = 'tokenizer_config.json', 'special_tokens_map.json'
FILES = FILE, _CONFIG, _SPECIAL
# Names of special tokens in Hugging Face's files, by role
_ROLES = {'pad': ['pad_token'], 'unk': ['unk_token'], 'cls': ['cls_token', 'bos_token'],
          'sep': ['sep_token', 'eos_token'], 'mask': ['mask_token']}


def tokenizer_files(conf: MLMConfigs, *, max_length: int, has_segments: bool,
                    pairs: PairTemplate | None = None) -> dict[str, str]:
    """
    Files by name.

    * `max_length` is the longest sequence of tokens
    * `has_segments`: does the model take token types?
    * `pairs` is what stood around and between the texts of pairs, if there were such in training

    Raises `UserError` for a tokenizer of the user's own.
    """
    tokenizer = conf.tokenizer
    if type(tokenizer) is CharacterTokenizer:
        content = json.loads(_of_characters(tokenizer).to_str())
    elif type(tokenizer) is SubwordTokenizer:
        content = json.loads(tokenizer.files[FILE])
    else:
        raise UserError(f'a tokenizer of the class {type(tokenizer).__name__} cannot be written as {FILE}: '
                        'labml_mlm.tokenization.SubwordTokenizer can')
    if conf.mask_token != tokenizer.special.mask or conf.padding_token != tokenizer.special.pad:
        raise UserError(f'mask_token={conf.mask_token} and padding_token={conf.padding_token} are not those of the '
                        f'tokenizer, {tokenizer.special.mask} and {tokenizer.special.pad}')
    names = {added['id']: added['content'] for added in content['added_tokens']}
    _set_template(content, conf, names, pairs)
    for added in content['added_tokens']:
        if added['id'] == tokenizer.special.mask:
            # As in training, where the space before a word is part of its first token. There, all of several spaces are
            added['lstrip'] = bool(added['lstrip'] or tokenizer.is_spaced)
    special = _special_names(tokenizer.special, names)
    about = {'tokenizer_class': 'PreTrainedTokenizerFast', 'model_max_length': max_length, **special,
             'clean_up_tokenization_spaces': False,
             'model_input_names': ['input_ids', *['token_type_ids'] * has_segments, 'attention_mask']}
    return {FILE: json.dumps(content, ensure_ascii=False, indent=2),
            _CONFIG: json.dumps(about, ensure_ascii=False, indent=2),
            _SPECIAL: json.dumps(special, ensure_ascii=False, indent=2)}


def _of_characters(tokenizer: CharacterTokenizer) -> Tokenizer:
    names = {name: i for i, name in enumerate(tokenizer.tokens)}
    written = Tokenizer(models.WordLevel(names, unk_token=tokenizer.tokens[tokenizer.special.unk]))
    # Line ends, too
    written.pre_tokenizer = pre_tokenizers.Split(Regex(r'[\s\S]'), 'isolated')
    written.decoder = decoders.Fuse()
    written.add_special_tokens([tokenizer.tokens[i] for i in tokenizer.special.all])
    return written


def _set_template(content: dict[str, Any], conf: MLMConfigs, names: dict[int, str], pairs: PairTemplate | None):
    """What stands around each text: what stood there in training, be it nothing."""
    before, after = conf._template
    processor = content['post_processor'] or {'type': 'none'}
    if conf._template.length and processor['type'] not in ('none', 'ByteLevel'):
        # The template is that of this
        return
    if pairs is None:
        pairs = PairTemplate(before, after, after, 1)

    def special(ids: Iterable[int], segment: int) -> list[dict[str, Any]]:
        return [{'SpecialToken': {'id': names[i], 'type_id': segment}} for i in ids]

    first, segment = {'Sequence': {'id': 'A', 'type_id': 0}}, pairs.second_segment
    content['post_processor'] = {
        'type': 'TemplateProcessing', 'single': [*special(before, 0), first, *special(after, 0)],
        'pair': [*special(pairs.before, 0), first, *special(pairs.between, 0),
                 {'Sequence': {'id': 'B', 'type_id': segment}}, *special(pairs.after, segment)],
        'special_tokens': {names[i]: {'id': names[i], 'ids': [i], 'tokens': [names[i]]}
                           for i in (*before, *after, *pairs.before, *pairs.between, *pairs.after)}}


def _special_names(special: SpecialTokens, names: dict[int, str]) -> dict[str, str]:
    found = {}
    for role, theirs in _ROLES.items():
        if (i := getattr(special, role)) is not None and i in names:
            found |= dict.fromkeys(theirs, names[i])
    return found
