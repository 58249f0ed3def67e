"""What other tools call it, and what the message of the error says."""
import pytest

from labml_mlm import MLMConfigs
from labml_mlm.common.errors import UserError
from labml_mlm.finetuning.classification import ClassificationConfigs
from labml_mlm.items import other_names
from labml_mlm.items.overrides import parse_overrides, parse_value
from labml_mlm.items.schema import config_items

# By name: the guess in the message
GUESSES = {
    # Hugging Face's `TrainingArguments`
    'learning_rate': 'optimizer.learning_rate', 'weight_decay': 'optimizer.weight_decay', 'num_train_epochs': 'epochs',
    'per_device_train_batch_size': 'batch_size', 'per_device_eval_batch_size': 'valid_batch_size',
    'adam_epsilon': 'optimizer.eps', 'adam_beta1': 'optimizer.betas', 'adam_beta2': 'optimizer.betas',
    'max_grad_norm': 'grad_norm_clip', 'lr_scheduler_type': 'lr_schedule', 'warmup_steps': 'lr_warmup_steps',
    'warmup_ratio': 'lr_warmup_steps', 'save_steps': 'checkpoint_interval', 'save_total_limit': 'keep_checkpoints',
    'eval_steps': 'inner_iterations', 'fp16': 'precision=bf16', 'bf16': 'precision=bf16', 'optim': 'optimizer',
    'torch_compile': 'compile', 'resume_from_checkpoint': '--resume', 'no_cuda': 'device=cpu', 'use_cpu': 'device=cpu',
    'use_mps_device': 'device=mps', 'fsdp': 'parallel=fsdp',
    # Its scripts and configs
    'model_name_or_path': 'init_from', 'tokenizer_name': 'tokenizer_path', 'train_file': 'text_path',
    'validation_file': 'valid_path', 'validation_split_percentage': 'valid_fraction', 'max_seq_length': 'seq_len',
    'mlm_probability': 'masking_prob', 'hidden_size': 'd_model', 'num_hidden_layers': 'transformer.n_layers',
    'num_attention_heads': 'transformer.n_heads', 'intermediate_size': 'transformer.ffn.d_ff',
    'hidden_dropout_prob': 'transformer.dropout', 'hidden_act': 'transformer.ffn.activation',
    'model_type': 'transformer', 'max_train_steps': 'max_steps', 'num_warmup_steps': 'lr_warmup_steps',
    'text_column_name': 'text_field',
    # nanoGPT
    'n_embd': 'd_model', 'n_layer': 'transformer.n_layers', 'n_head': 'transformer.n_heads', 'block_size': 'seq_len',
    'max_iters': 'max_steps', 'warmup_iters': 'lr_warmup_steps', 'min_lr': 'min_lr_ratio',
    'grad_clip': 'grad_norm_clip', 'eval_interval': 'inner_iterations', 'dtype': 'precision', 'dataset': 'text_path',
    # fairseq
    'lr': 'optimizer.learning_rate', 'clip_norm': 'grad_norm_clip', 'update_freq': 'gradient_accumulation_steps',
    'max_update': 'max_steps', 'max_epoch': 'epochs', 'tokens_per_sample': 'seq_len', 'mask_prob': 'masking_prob',
    'leave_unmasked_prob': 'no_change_prob', 'random_token_prob': 'randomize_prob', 'mask_whole_words': 'masking=word',
    'encoder_layers': 'transformer.n_layers', 'encoder_embed_dim': 'd_model', 'restore_file': '--resume',
    'encoder_ffn_embed_dim': 'transformer.ffn.d_ff', 'encoder_attention_heads': 'transformer.n_heads',
    'save_interval_updates': 'checkpoint_interval', 'warmup_updates': 'lr_warmup_steps', 'arch': 'transformer',
    # PyTorch Lightning
    'max_epochs': 'epochs', 'accumulate_grad_batches': 'gradient_accumulation_steps', 'accelerator': 'device',
    'gradient_clip_val': 'grad_norm_clip', 'val_check_interval': 'inner_iterations', 'ckpt_path': '--resume',
    'strategy': 'parallel', 'every_n_train_steps': 'checkpoint_interval',
    # Scripts of all kinds
    'bs': 'batch_size', 'train_batch_size': 'batch_size', 'wd': 'optimizer.weight_decay', 'amp': 'precision=bf16',
    'mixed_precision': 'precision=bf16', 'total_steps': 'max_steps', 'num_train_steps': 'max_steps',
    'train_steps': 'max_steps', 'num_layers': 'transformer.n_layers', 'num_heads': 'transformer.n_heads',
    'early_stopping_patience': 'patience', 'random_seed': 'seed', 'gpus': 'device=cuda', 'use_gpu': 'device=cuda',
    'llrd': 'lr_layer_decay', 'optimizer.lr': 'optimizer.learning_rate',
}
SPELLINGS = {'batch-size': 'batch_size', 'learningRate': 'optimizer.learning_rate', 'Max-Seq-Length': 'seq_len',
             'numTrainEpochs': 'epochs', 'BLOCK_SIZE': 'seq_len', 'batchSize': 'batch_size', 'SEQ_LEN': 'seq_len',
             'mlm-probability': 'masking_prob', 'hiddenSize': 'd_model',
             'transformer.numLayers': 'transformer.n_layers', 'warmup': 'lr_warmup_steps',
             'optimizer.learningRate': 'optimizer.learning_rate'}
VALUES = {'optimizer.optimizer=adamw': 'FusedAdamW', 'optimizer.optimizer=adamw_torch': 'FusedAdamW',
          'optimizer.optimizer=fusedAdamW': 'FusedAdamW', 'optimizer.optimizer=sgd': 'SGD', 'optimizer=adamw': 'mlm',
          'optimizer=AdamW': 'mlm', 'optimizer=Muon': 'muon', 'optimizer=adam': 'optimizer.optimizer=Adam',
          'optimizer=noam': 'optimizer.optimizer=Noam', 'precision=fp16': 'bf16', 'precision=bf16-mixed': 'bf16',
          'precision=float32': 'fp32', 'device=gpu': 'cuda', 'device=CUDA': 'cuda', 'tokenizer=BPE': 'bpe',
          'tokenizer=sentencepiece': 'unigram', 'lr_schedule=cosine': 'warmup_cosine', 'lr_schedule=linear':
          'warmup_linear', 'tokenizer=WordPiece': 'wordpiece'}


def error(override, class_=MLMConfigs):
    with pytest.raises(UserError) as e:
        parse_overrides(class_(), [override])
    message = str(e.value)
    assert '\n' not in message
    return message


def test_the_table_is_not_small():
    assert len(GUESSES) > 80


@pytest.mark.parametrize('name, guess', [*GUESSES.items(), *SPELLINGS.items()])
def test_a_name_of_another_tool_gets_the_right_guess(name, guess):
    message = error(f'{name}=1')
    assert message.startswith(f'`{name}`: there is no such item. Did you mean `{guess}`?')
    assert message.endswith(' `--help all` lists them all')


@pytest.mark.parametrize('override, guess', VALUES.items())
def test_a_value_of_another_tool_gets_the_right_guess(override, guess):
    assert f' Did you mean `{guess}`?' in error(override)


def test_every_guess_of_the_table_can_be_given():
    items = [config_items(MLMConfigs()), config_items(ClassificationConfigs())]
    options = set()
    for name, meaning in other_names._BY_NAME.items():
        if meaning.here.startswith('--'):
            options.add(meaning.here)
            continue
        item, equals, value = meaning.here.partition('=')
        found = [of_configs[item] for of_configs in items if item in of_configs and of_configs[item].is_settable]
        assert found, (name, item)
        if equals:
            assert parse_value(found[0], value) == value
        # It would not be an error
        assert all(name not in of_configs for of_configs in items[:1]), name
    assert options == {'--resume', '--help', '--name', '--tags'}
    for (item, _), meaning in other_names._BY_VALUE.items():
        assert meaning.here in items[0][item].allowed


def test_a_name_stands_in_the_table_once():
    names = [other_names.squeezed(name) for _, _, names in other_names._NAMES for name in names.split()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize('name, note', [
    ('eval_steps', 'It is the number of validations per epoch, not of steps between two.'),
    ('save_steps', 'It counts optimizer steps.'), ('warmup_ratio', 'It counts optimizer steps, and is no fraction'),
    ('per_device_train_batch_size', 'of all devices and all micro-batches'),
    ('min_lr', 'It is a fraction of the peak.'),
    ('accumulate_grad_batches', 'It splits batch_size, and does not multiply it.'), ('fp16', 'There is no fp16'),
    ('validation_split_percentage', 'It is a fraction, and no percentage.'),
    ('adam_beta2', 'optimizer.betas=0.9,0.999'),
])
def test_other_units_are_told(name, note):
    assert note in error(f'{name}=1')


def test_adamw_is_explained():
    for override in ('optimizer.optimizer=adamw', 'optimizer=AdamW'):
        message = error(override)
        assert "torch's AdamW" in message and "labml_nn's, with a warm-up of its own" in message
    # It has this name
    assert parse_overrides(MLMConfigs(), ['optimizer.optimizer=AdamW']) == {'optimizer.optimizer': 'AdamW'}


def test_configs_without_an_item_do_not_guess_it():
    assert error('mlm_probability=0.2', ClassificationConfigs) == \
        '`mlm_probability`, which is `masking_prob` here, cannot be set: fine-tuning masks nothing'
    assert error('label_column=x', ClassificationConfigs).startswith(
        '`label_column`: there is no such item. Did you mean `label_field`?')
    assert 'label_field`' not in error('label_column=x').replace('probe_label_field`', '')
    assert 'compile' not in error('torch_compile=true', ClassificationConfigs).partition('item.')[2]


def test_an_item_of_the_users_own_may_have_such_a_name():
    class Own(MLMConfigs):
        lr: float = 1.0

    assert parse_overrides(Own(), ['lr=2']) == {'lr': 2.0}
