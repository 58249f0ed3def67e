"""
# Export of a fine-tuned model as a folder of Hugging Face's

It has what `represent_task` makes of the model, with the files of the tokenizer and a model card, and `self_check`
compares it with the model. Its tokenizer cuts texts where the model did.
"""
from pathlib import Path

from labml_mlm.export.card import Note
from labml_mlm.export.folder import Files, size_note, with_origin, write_card, write_files
from labml_mlm.export.target import check_target, new_folder
from labml_mlm.export.tokenizer_files import tokenizer_files
from labml_mlm.inference.fine_tuned import FineTuned
from labml_mlm.task_export.heads import represent_task
from labml_mlm.task_export.self_check import check_task_folder
from labml_mlm.tokenization.base import tokenizer_pair_template


def export_task_folder(trained: FineTuned, path: Path, *, is_forced: bool = False, is_custom: bool = False,
                       python: str | None = None) -> list[Note]:
    """
    Writes a folder that `from_pretrained` loads. Arguments, what is returned, and what is raised are those of
    `export_folder`.
    """
    check_target(trained, path, is_forced=is_forced)
    shown, conf = represent_task(trained, is_custom=is_custom), trained.configs
    notes = [size_note(shown.config, shown.weights)]
    if shown.code:
        notes.append(Note('To be loaded with trust_remote_code=True'))
    if shown.why:
        notes.append(Note('It comes with code of its own', shown.why))
    pairs = tokenizer_pair_template(conf.tokenizer) if trained.is_of_pairs else None
    texts = tokenizer_files(conf, max_length=conf.seq_len, has_segments=trained.model.n_segments > 1, pairs=pairs)
    config = with_origin(trained, shown.config)
    with new_folder(path, is_forced=is_forced) as folder:
        write_files(folder, Files(config, shown.weights, shown.code | texts, notes))
        notes += check_task_folder(folder, trained, shown, python=python)
        write_card(folder, trained, config, notes)
    return notes
