"""
# Tagging of words

    python experiments/tag.py text_path=FILE [init_from=RUN] [name=value ...] [--resume RUN] [--help]

`text_path` is a file in columns as in CoNLL, a word and its label in each line and a blank line behind each sentence,
or JSON lines with a list of words and a list of labels, which `text_field=tokens` and `label_field=tags` name.
`init_from` is a run, one of its checkpoints, or the folder of a published encoder. A tenth of the sentences is for
validation, unless there is a `valid_path`.
"""
from labml_mlm import TaggingConfigs, train

if __name__ == '__main__':
    train(TaggingConfigs(), name='tag')
