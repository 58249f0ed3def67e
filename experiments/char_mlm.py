"""
# Character-level MLM on Tiny Shakespeare

    python experiments/char_mlm.py [name=value ...] [--resume RUN] [--help]

d_model 128, d_ff 256, 8 heads, 3 layers, batch 64 × seq_len 32, a token per character, 0.4 million parameters. Eight
epochs took 5.3 minutes on 2 CPU cores of a shared machine (torch 2.13.0, Python 3.11):

| training tokens | loss.valid | accuracy.valid |
|-----------------|------------|----------------|
| 1.0 million     | 1.416      | 0.585          |
| 2.0 million     | 1.254      | 0.628          |
| 4.0 million     | 1.096      | 0.680          |
| 6.0 million     | 1.009      | 0.700          |
| 8.0 million     | 0.944      | 0.722          |

`recipe=char_labml_nn_size` has the size of labml_nn's MLM experiment, six layers: 0.975 and 0.715 after 4.0 million
tokens, each of which takes it about twice as long.

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
