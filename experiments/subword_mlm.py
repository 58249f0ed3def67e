"""
# Subword MLM on Python's own sources

    python experiments/subword_mlm.py [name=value ...] [--resume RUN] [--help]

Byte-level BPE with a vocabulary of 8,192, on the sources of the installed Python's standard library (31 MB, 1,758
files, 8.6 million tokens) or on any other text (`text_path=PATH`). It needs no internet access. d_model 128, d_ff 256,
8 heads, 6 layers, batch 32 × seq_len 128, 2.9 million parameters. One epoch takes 13.5 minutes on 2 CPU cores (torch
2.13.0, Python 3.11.7):

| training tokens | loss.valid | accuracy.valid |
|-----------------|------------|----------------|
| 1.9 million     | 4.452      | 0.339          |
| 3.8 million     | 3.886      | 0.401          |
| 5.7 million     | 3.594      | 0.435          |
| 7.6 million     | 3.519      | 0.445          |

With another version of Python, sources and figures differ.
"""
from labml_mlm import MLMConfigs, train


class Configs(MLMConfigs):
    """
    ## Configurations for subwords
    """
    recipe = 'subword'


if __name__ == '__main__':
    train(Configs(), name='subword_mlm')
