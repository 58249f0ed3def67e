r"""
# Tagging of words

    python experiments/tag.py text_path=FILE [init_from=RUN] [name=value ...] [--resume RUN] [--help]

`text_path` is a file in columns as in CoNLL, a word and its label in each line and a blank line behind each sentence,
or JSON lines with a list of words and a list of labels, which `text_field=tokens` and `label_field=tags` name.
`init_from` is a run, one of its checkpoints, or the folder of a published encoder. A tenth of the sentences is for
validation, unless there is a `valid_path`.

Python's own tokens from characters, from random weights (a vocabulary of characters, 6 layers, d_model 128), with the
defaults. `benchmarks/code_data.py code` writes the rows, here from the sources of Python 3.11.7:

    python experiments/tag.py text_path=code/characters/train_1000_seed1.jsonl label_field=labels word_separator= \
        valid_path=code/characters/held_out.jsonl

| 1,910 held-out lines, one seed | accuracy.valid | entity_f1.valid |
|---|---|---|
| the most frequent label | 0.321 | |
| the most frequent label of each character | 0.441 | |
| 1,000 lines to train on, 4 epochs | 0.679 | 0.585 |

That takes 43 seconds of one core (CPU, torch 2.13.0).
"""
from labml_mlm import TaggingConfigs, train

if __name__ == '__main__':
    train(TaggingConfigs(), name='tag')
