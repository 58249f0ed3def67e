"""
# What other tools call it

A name of Hugging Face's `Trainer` and configs, of nanoGPT, fairseq or PyTorch Lightning is seldom near to ours in its
letters, and what is near may be something else. So the right guess is in a table. Hyphens, upper case and camelCase
make no difference.
"""
from collections.abc import Mapping
from typing import NamedTuple

from labml_mlm.common.errors import squeezed
from labml_mlm.items.schema import ConfigField


class Meaning(NamedTuple):
    """What a name is here."""
    # An item, an item with its value, or an option of the command line
    here: str
    # What is different, as a sentence without its end
    note: str = ''

    @property
    def item(self) -> str:
        """The name of the item."""
        return self.here.partition('=')[0]

    @property
    def guess(self) -> str:
        """The end of a message."""
        return f' Did you mean `{self.here}`?' + (f' {self.note}' if self.note else '')

    @property
    def takes_value(self) -> bool:
        """Does it take a value as it was meant for the other name?"""
        return self.note not in _OTHER_UNITS


_WHOLE_BATCH = 'It is the batch of a step: of all devices and all micro-batches'
_SPLITS = 'It splits batch_size, and does not multiply it'
_OPTIMIZER_STEPS = 'It counts optimizer steps'
_NO_RATIO = 'It counts optimizer steps, and is no fraction of training'
_PER_EPOCH = 'It is the number of validations per epoch, not of steps between two'
_OF_PEAK = 'It is a fraction of the peak'
_NO_PERCENTAGE = 'It is a fraction, and no percentage'
_BOTH = 'It has both: optimizer.betas=0.9,0.999'
_OTHER_UNITS = _NO_RATIO, _PER_EPOCH, _OF_PEAK, _NO_PERCENTAGE, _BOTH
_NO_FP16 = 'There is no fp16, whose gradients would need a scale'
_OF_TORCH = "That is torch's AdamW; `AdamW` is labml_nn's, with a warm-up of its own"

# What it is here, what is different, and how others call it
_NAMES = (
    ('text_path', '', 'train_file train_data train_path train_data_file dataset dataset_name data data_path '
                      'data_dir dataset_path input_file corpus_path'),
    ('text_field', '', 'text_column text_column_name column_name'),
    ('label_field', '', 'label_column label_column_name target_column'),
    ('valid_path', '', 'validation_file valid_file eval_file eval_data_file val_file val_data val_path eval_path'),
    ('valid_fraction', _NO_PERCENTAGE, 'validation_split_percentage'),
    ('valid_fraction', '', 'validation_split val_split val_fraction valid_split val_size test_size'),
    ('seq_len', '', 'max_seq_length max_seq_len max_length max_len block_size context_length context_size n_ctx '
                    'sequence_length tokens_per_sample max_source_positions window_size'),
    ('vocab_size', '', 'n_vocab vocabulary_size num_embeddings padded_vocab_size'),
    ('tokenizer_path', '', 'tokenizer_name tokenizer_name_or_path tokenizer_file tokenizer_dir vocab_file'),
    ('batch_size', _WHOLE_BATCH, 'per_device_train_batch_size per_gpu_train_batch_size micro_batch_size '
                                 'device_batch_size'),
    ('batch_size', '', 'bs bsz train_batch_size batch_sz global_batch_size max_sentences'),
    ('valid_batch_size', '', 'per_device_eval_batch_size per_gpu_eval_batch_size eval_batch_size val_batch_size '
                             'test_batch_size'),
    ('gradient_accumulation_steps', _SPLITS, 'update_freq accumulate_grad_batches grad_accum grad_accum_steps '
                                             'accumulation_steps accumulate_grad gradient_accumulation'),

    ('init_from', '', 'model_name_or_path model_name pretrained_model_name_or_path pretrained pretrained_model '
                      'from_pretrained finetune_from_model load_from pretrained_path'),
    ('transformer', '', 'model_type arch architecture'),
    ('d_model', '', 'hidden_size hidden_dim n_embd embed_dim embedding_size embedding_dim emb_dim encoder_embed_dim '
                    'd_embed model_dim dim'),
    ('transformer.n_layers', '', 'num_hidden_layers num_layers n_layer encoder_layers num_encoder_layers depth'),
    ('transformer.n_heads', '', 'num_attention_heads num_heads n_head encoder_attention_heads'),
    ('transformer.ffn.d_ff', '', 'intermediate_size ffn_dim n_inner dim_feedforward feedforward_dim encoder_ffn_dim '
                                 'encoder_ffn_embed_dim mlp_dim'),
    ('transformer.dropout', '', 'hidden_dropout_prob dropout_prob dropout_rate resid_pdrop p_dropout hidden_dropout'),
    ('transformer.ffn.activation', '', 'hidden_act activation_function activation_fn hidden_activation act_fn'),
    ('pooling', '', 'pooling_mode pooling_strategy'),
    ('head_dropout', '', 'classifier_dropout classifier_dropout_prob'),

    ('masking_prob', '', 'mlm_probability mlm_prob mask_prob mask_probability masking_rate mask_rate mask_ratio '
                         'masked_lm_prob masking_ratio'),
    ('randomize_prob', '', 'random_token_prob random_replace_prob random_prob'),
    ('no_change_prob', '', 'leave_unmasked_prob keep_prob unchanged_prob'),
    ('masking=word', '', 'whole_word_mask whole_word_masking mask_whole_words wwm'),
    ('masking=span', '', 'span_masking mask_spans'),

    ('epochs', '', 'num_train_epochs num_epochs n_epochs nb_epochs max_epochs max_epoch train_epochs'),
    ('max_steps', '', 'num_train_steps train_steps max_train_steps training_steps num_training_steps total_steps '
                      'num_steps max_iters max_update total_num_update total_iters n_steps'),
    ('optimizer', '', 'optim optimizer_name optimizer_type opt optim_type'),
    ('optimizer.learning_rate', '', 'lr learning_rate max_lr peak_lr base_lr init_lr initial_lr'),
    ('optimizer.weight_decay', '', 'weight_decay wd l2 l2_reg'),
    ('optimizer.eps', '', 'adam_epsilon adam_eps epsilon'),
    ('optimizer.betas', _BOTH, 'adam_beta1 adam_beta2 beta1 beta2 adam_betas'),
    ('lr_schedule', '', 'lr_scheduler_type lr_scheduler learning_rate_schedule lr_policy lr_decay_style'),
    ('lr_warmup_steps', _OPTIMIZER_STEPS, 'warmup_steps num_warmup_steps warmup_updates warmup_iters n_warmup_steps '
                                          'warmup lr_warmup_iters'),
    ('lr_warmup_steps', _NO_RATIO, 'warmup_ratio warmup_proportion warmup_fraction'),
    ('min_lr_ratio', _OF_PEAK, 'min_lr end_learning_rate lr_end'),
    ('lr_layer_decay', '', 'layerwise_lr_decay llrd layer_decay'),
    ('grad_norm_clip', '', 'max_grad_norm grad_clip clip_norm gradient_clip_val clip_grad clip_grad_norm '
                           'grad_clip_norm gradient_clipping max_norm'),
    ('precision=bf16', _NO_FP16, 'fp16 half float16 use_fp16'),
    ('precision=bf16', '', 'bf16 amp mixed_precision use_amp bfloat16 autocast use_bf16'),
    ('precision', '', 'dtype torch_dtype'),
    ('compile', '', 'torch_compile compile_model use_compile'),
    ('device=cuda', '', 'use_cuda use_gpu gpu gpus cuda'),
    ('device=cpu', '', 'no_cuda use_cpu cpu'),
    ('device=mps', '', 'use_mps use_mps_device mps'),
    ('device', '', 'accelerator devices device_name device_type'),
    ('parallel=fsdp', '', 'fsdp use_fsdp'),
    ('parallel=ddp', '', 'ddp use_ddp data_parallel'),
    ('parallel', '', 'strategy ddp_backend distributed_strategy'),
    ('seed', '', 'random_seed manual_seed data_seed rng_seed'),
    ('freeze', '', 'freeze_layers freeze_encoder frozen_layers'),

    ('checkpoint_interval', _OPTIMIZER_STEPS, 'save_steps save_interval save_every save_interval_updates '
                                              'checkpoint_every checkpoint_steps ckpt_interval every_n_train_steps'),
    ('keep_checkpoints', '', 'save_total_limit save_top_k keep_last_epochs keep_interval_updates max_checkpoints'),
    ('inner_iterations', _PER_EPOCH, 'eval_steps eval_interval eval_every val_check_interval '
                                     'validate_interval_updates evaluation_steps eval_freq valid_steps'),
    ('patience', 'It counts validations', 'early_stopping_patience early_stopping'),
    ('metric', '', 'metric_for_best_model best_checkpoint_metric monitor'),
    ('--resume', '', 'resume resume_from_checkpoint resume_from ckpt_path restore_file resume_path resume_training '
                     'load_checkpoint'),
    ('--name', '', 'run_name experiment_name exp_name'),
    ('--tags', '', 'tag run_tags'),
    ('--help', '', 'help h usage'),
)
_BY_NAME = {squeezed(name): Meaning(here, note) for here, note, names in _NAMES for name in names.split()}
# Values of items, in the same way
_VALUES = {
    'optimizer': (('mlm', "That is torch's AdamW; optimizer.optimizer=AdamW is labml_nn's, with a warm-up of its own",
                   'adamw adamw_torch adamw_torch_fused adamw_hf fusedadamw fused_adam'),),
    'optimizer.optimizer': (('FusedAdamW', _OF_TORCH, 'adamw adamw_torch adamw_torch_fused adamw_hf fused_adam'),),
    'precision': (('bf16', _NO_FP16, 'fp16 16 16-mixed float16 half'),
                  ('bf16', '', 'bfloat16 bf16-mixed bf16-true mixed amp'),
                  ('fp32', '', '32 32-true float32 float full tf32')),
    'device': (('cuda', '', 'gpu gpus nvidia'), ('mps', '', 'metal apple'), ('available', '', 'auto')),
    'lr_schedule': (('warmup_cosine', '', 'cosine cosine_with_restarts cosine_annealing'),
                    ('warmup_linear', '', 'linear polynomial polynomial_decay'),
                    ('wsd', '', 'warmup_stable_decay trapezoidal')),
    'tokenizer': (('character', '', 'char chars byte'), ('bpe', '', 'byte_level_bpe gpt2'),
                  ('unigram', '', 'sentencepiece spm')),
}
_BY_VALUE = {(item, squeezed(value)): Meaning(here, note) for item, rows in _VALUES.items()
             for here, note, values in rows for value in values.split()}


def other_name(name: str, items: Mapping[str, ConfigField]) -> Meaning | None:
    """
    What a name means that is none of the `items`; `None` if that is unknown, or if they lack it. A name with dots may
    be known by its last part.
    """
    name = squeezed(name)
    for known in (name, name.rpartition('.')[2]):
        meaning = _BY_NAME.get(known)
        if meaning is not None and (meaning.item in items or meaning.item.startswith('--')):
            return meaning
    return None


def other_value(item: str, text: str) -> Meaning | None:
    """What a value means that an item does not have; `None` if that is unknown."""
    return _BY_VALUE.get((item, squeezed(text)))
