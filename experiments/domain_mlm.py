"""
# Going on with a published encoder, on a text of one's own

    python experiments/domain_mlm.py init_from=FOLDER [text_path=PATH] [name=value ...] [--resume RUN] [--help]

`init_from` is a folder that `save_pretrained` wrote (BERT, RoBERTa, XLM-R, ModernBERT), one that `labml-mlm export`
wrote, a run, or one of its checkpoints. Sizes and tokenizer are those of the folder. Without a text, it is the help
topics that come with Python.

MiniLM (6 layers, d_model 384, without a head), `epochs=2` on the help topics, 230,328 tokens in batches of 16 × 128, on
CPU (torch 2.13.0, Python 3.11.7):

| training tokens | loss.valid | accuracy.valid |
|-----------------|------------|----------------|
| 0.12 million    | 3.030      | 0.487          |
| 0.23 million    | 2.593      | 0.548          |
"""
from labml_mlm import MLMConfigs, train


class Configs(MLMConfigs):
    """
    ## Configurations for going on
    """
    recipe = 'domain'


if __name__ == '__main__':
    train(Configs(), name='domain_mlm')
