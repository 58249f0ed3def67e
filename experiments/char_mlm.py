"""
# Character-level MLM on Tiny Shakespeare

    python experiments/char_mlm.py [name=value ...] [--resume RUN] [--help]

The defaults have the size of labml_nn's MLM experiment: d_model 128, d_ff 256, 8 heads, 6 layers, batch 64 × seq_len
32, a token per character, 0.8 million parameters. Four epochs take 3.5 minutes on 2 CPU cores (torch 2.13.0, Python
3.11):

| training tokens | loss.valid | accuracy.valid |
|-----------------|------------|----------------|
| 1.0 million     | 1.372      | 0.598          |
| 2.0 million     | 1.182      | 0.649          |
| 3.0 million     | 1.057      | 0.685          |
| 4.0 million     | 0.975      | 0.715          |

With labml_nn's recipe (Noam, layers that start equal, dropout during validation) the masked accuracy is 0.23 after
1,000 seconds. Without internet access the text is `python_topics`, which is half as long.
"""
from labml_mlm import MLMConfigs, train


class Configs(MLMConfigs):
    """
    ## Configurations for characters

    The recipe that learns fastest in `benchmarks/learning.py`.
    """
    recipe = 'char'


if __name__ == '__main__':
    train(Configs(), name='char_mlm')
