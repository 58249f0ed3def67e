"""
# `labml-mlm export`
"""
import argparse
import sys

from labml_mlm.common.errors import UserError

# Of a file in ONNX
SUFFIX = '.onnx'
# Options that a folder alone has
_OF_FOLDERS = {'custom_code': '--custom-code', 'sentence_transformers': '--sentence-transformers'}


def export(parsed: argparse.Namespace):
    """A trained model as a folder of Hugging Face's, or as a file in ONNX."""
    from labml_mlm.inference.fine_tuned import FineTuned
    from labml_mlm.inference.loading import load

    is_onnx = parsed.target.suffix.lower() == SUFFIX
    if is_onnx and (given := [option for name, option in _OF_FOLDERS.items() if getattr(parsed, name)]):
        raise UserError(f'{given[0]} is for a folder, and {parsed.target} is a file in ONNX')
    if parsed.encoder and not is_onnx:
        raise UserError(f'--encoder is for a file in ONNX, and {parsed.target} is a folder, which has both')
    trained = load(parsed.run, which=parsed.checkpoint, folder=parsed.path)
    print(f'Using {trained.about}', file=sys.stderr)
    is_fine_tuned = isinstance(trained, FineTuned)
    if is_fine_tuned and parsed.sentence_transformers:
        raise UserError('--sentence-transformers is for models whose hidden states are of use, and this one was '
                        f'fine-tuned for {trained.configs._objective}')
    if is_onnx:
        from labml_mlm.export.onnx import export_onnx

        if parsed.target.exists() and not parsed.force:
            raise UserError(f'{parsed.target} exists: --force replaces it')
        notes = export_onnx(trained, parsed.target, is_encoder=parsed.encoder)
    elif is_fine_tuned:
        from labml_mlm.task_export.folder import export_task_folder

        notes = export_task_folder(trained, parsed.target, is_forced=parsed.force, is_custom=parsed.custom_code)
    else:
        from labml_mlm.export.folder import export_folder

        notes = export_folder(trained, parsed.target, is_forced=parsed.force, is_custom=parsed.custom_code,
                              is_sentence_transformers=parsed.sentence_transformers)
    print(*notes, f'{parsed.target} is written', sep='\n')
