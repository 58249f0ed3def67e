"""
# Character-level MLM on Tiny Shakespeare

    python experiments/char_mlm.py
"""
from labml_mlm import MLMConfigs, train

if __name__ == '__main__':
    train(MLMConfigs(), name='char_mlm')
