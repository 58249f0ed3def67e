"""
# MLM on labml

`MLMConfigs` holds what a run consists of: every item can be overridden by name, and most have options
to choose from. The options are the small functions below, next to what they need.
"""

import functools
import inspect
from collections.abc import Callable

import torch
from labml import logger, tracker
from labml.configs import option
from labml.logger import Text
from labml_helpers.train_valid import BatchIndex
from torch import Tensor, nn

from labml_mlm.common.errors import ABOVE_ZERO, SHARE, UserError, at_least
from labml_mlm.configs.training import EXACTNESS_ENDS, RunConfigs
from labml_mlm.data.batch import Batch
from labml_mlm.distributed.parallel import is_sliced
from labml_mlm.distributed.process_group import ranks
from labml_mlm.masking.mlm import MLM
from labml_mlm.model.transformer import MLMTransformerConfigs, TransformerMLM
from labml_mlm.optim.optimizer import MLMOptimizerConfigs, MuonConfigs, has_own_schedule, learning_rate
from labml_mlm.optim.schedules import inverse_sqrt, noam, warmup_cosine, warmup_linear, warmup_stable_decay
from labml_mlm.runs.run import Run
from labml_mlm.runs.samples_log import Validation
from labml_mlm.training.engine import Engine, pays_to_compile
from labml_mlm.training.sampler import Sampler, log_samples


class MLMConfigs(RunConfigs):
    """
    ## Configurations of an MLM run

    labml_nn's MLM items keep their names. Subclass it to add items and options of your own.
    """
    # Do the batches of a loader of your own hold padding, not to be attended to?
    is_padded: bool = False

    # Features of a token
    d_model: int = 128
    # The transformer
    transformer: MLMTransformerConfigs = 'mlm'
    # The model, on `device`
    model: TransformerMLM = 'transformer_mlm'

    # Of matrix products: fp32 or bf16; auto is bf16 on GPUs that have it
    precision: torch.dtype = 'auto'
    # Is the model compiled? auto is where that pays for itself within the run
    compile: bool = 'auto'
    # Parts that a rank's training batch is cut into, for a batch that does not fit into memory
    accumulate: int = 1
    # Forward and backward
    engine: Engine = 'engine'

    # The optimizer; `mlm` is AdamW, and `muon` Muon with a rate for it
    optimizer: torch.optim.Optimizer = 'mlm'
    # Share of the learning rate by step; for torch's optimizers, as labml_nn's have their own
    lr_schedule: Callable[[int], float] = 'warmup_cosine'
    # Steps until the full learning rate
    lr_warmup_steps: int = 100
    # Share of the learning rate that is left at the end
    lr_min_share: float = 0.0
    # Share of the steps in which it falls, for lr_schedule=wsd
    lr_decay_share: float = 0.3
    # Sets the learning rate of each step
    scheduler: torch.optim.lr_scheduler.LambdaLR = 'lambda'
    # Longest gradient, by its norm; none for any
    grad_norm_clip: float | None = 1.0

    # Texts to mask and fill in at each validation; windows of the validation text, unless given
    prompt: list[str] = []
    # Number of those windows
    n_prompts: int = 3
    # Masks the prompts and prints what the model fills in
    sampler: Sampler = 'prompts'

    _ranges = {
        'd_model': at_least(2), 'lr_warmup_steps': at_least(0), 'lr_min_share': SHARE, 'lr_decay_share': SHARE,
        'grad_norm_clip': ABOVE_ZERO, 'n_prompts': at_least(0), 'accumulate': at_least(1),
    }
    _follows = {'transformer.d_model': 'd_model', 'transformer.seed': 'seed',
                'optimizer.d_model': 'transformer.d_model'}
    # What may be another one when a run goes on, and what that means
    _may_change = {
        **dict.fromkeys(['optimizer.learning_rate', 'optimizer.weight_decay', 'grad_norm_clip', 'lr_schedule',
                         'lr_warmup_steps', 'lr_min_share', 'lr_decay_share', 'masking_prob', 'masking_prob_start',
                         'masking_schedule', 'masking', 'randomize_prob', 'no_change_prob', 'seq_len_schedule',
                         'is_tokens_constant', 'device', 'device.use_cuda', 'device.cuda_device', 'precision',
                         'compile', 'accumulate', 'parallel'],
                        EXACTNESS_ENDS),
        'prompt': '', 'n_prompts': '',
    }

    def init(self):
        """Builds all that a run needs, so that whatever is wrong is found before it starts."""
        super().init()
        if self.parallel.is_sharded and not any(map(is_sliced, self.model.parameters())):
            raise UserError('parallel=fsdp: a `model` of your own has to be what `c.parallel.placed(model, c.device)` '
                            'gives, or goes with parallel=ddp')
        if ranks().size > 1:
            for name in ('mlm', 'valid_mlm'):
                _check_shares(name, getattr(self, name))
        _ = self.scheduler, self.mlm, self.valid_mlm, self.engine, self.grad_norm_clip, self.is_padded
        _ = self.masking_schedule, self.seq_len_schedule
        if self.seq_len > self.model.max_seq_len:
            raise UserError(f'seq_len={self.seq_len} is longer than the positions of this model allow: '
                            f'{self.model.max_seq_len}. transformer.encoder_attn=sdpa_rotary takes any length')
        valid = self._get_computed('valid_tokens')
        is_maskable = self.valid_mlm.is_maskable
        if valid is not None and not any(is_maskable[part.long()].any() for part in valid.split(1 << 20)):
            raise UserError('the text for validation has no token that can be masked: none of it is in the vocabulary')
        _ = self.sampler

    def step(self, batch: Tensor | Batch, batch_idx: BatchIndex):
        """
        One step of training or validation.

        * `batch` holds token ids, `[seq_len, batch_size]`, or is a `Batch` or a tuple `(tokens, key_padding)`
        """
        self.model.train(self.mode.is_train)
        batch = Batch.of(batch, padding_token=self.padding_token, is_padded=self.is_padded).of_rank(ranks())
        n_tokens = batch.n_tokens
        x, key_padding, document, columns, _ = batch.to(self.device)
        shared = [] if columns is None else [columns]
        if not self.mode.is_train:
            self.valid_metrics.add(self.engine.forward(*self.valid_mlm(x, *shared), key_padding, document))
            return

        if self.masking_schedule is not None:
            over = self.progress.share(self.train_loader, epochs=self.epochs)
            self.mlm.masking_prob = self.masking_schedule(over)
            tracker.add('masking_prob', self.mlm.masking_prob)
        if self.seq_len_schedule:
            tracker.add('seq_len', len(x))
        output = self.engine.forward_backward(*self.mlm(x, *shared), key_padding, document)
        tracker.add_global_step(n_tokens)
        self.step_metrics.add({'loss.': output.loss, 'accuracy.': output.n_correct / output.n_masked.clamp(min=1)})
        if key_padding is not None:
            tracker.add('efficiency.', n_tokens / batch.n_places)
        if self.grad_norm_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=self.grad_norm_clip)
        self.optimizer.step()
        tracker.add('lr', learning_rate(self.optimizer))
        self.scheduler.step()
        self.optimizer.zero_grad()
        tracker.add('tokens_per_second', self.throughput.step(n_tokens))
        self.step_metrics.save()

    def sample(self):
        """Prints the prompts, masked and filled in, and keeps that in the run's folder."""
        samples = self.sampler.fill(self.model, self.device)
        log_samples(samples)
        if samples and self.saver.folder is not None:
            valid = self.valid_metrics
            try:
                Run(self.saver.folder.parent).samples.add(
                    Validation(self.progress.tokens, valid.loss, valid.accuracy, samples))
            except OSError as e:
                logger.log(f'Cannot keep the samples: {e}. The run goes on', Text.warning)


def _check_shares(name: str, mlm: Callable):
    try:
        inspect.signature(mlm).bind(None, None)
    except TypeError:
        raise UserError(f'`{name}` is called with `(x, columns)` where several ranks share a batch, as `MLM` is, and '
                        f'this one takes `x` alone') from None


@option(MLMConfigs.transformer, 'mlm')
def _transformer(c: MLMConfigs) -> MLMTransformerConfigs:
    conf = MLMTransformerConfigs()
    conf.set_default(MLMTransformerConfigs.d_model, func=lambda: c.d_model)
    conf.set_default(MLMTransformerConfigs.n_src_vocab, func=lambda: c.n_tokens)
    conf.set_default(MLMTransformerConfigs.n_tgt_vocab, func=lambda: c.n_tokens)
    conf.set_default(MLMTransformerConfigs.padding_token, func=lambda: c.padding_token)
    conf.set_default(MLMTransformerConfigs.seed, func=lambda: c.seed)
    return conf


@option(MLMConfigs.model, 'transformer_mlm')
def _model(c: MLMConfigs):
    return c.parallel.placed(c.transformer.transformer_mlm, c.device)


@option(MLMConfigs.precision, 'auto')
def _auto_precision(c: MLMConfigs):
    return torch.bfloat16 if c.device.type == 'cuda' and torch.cuda.is_bf16_supported() else torch.float32


@option(MLMConfigs.precision, 'fp32')
def _fp32():
    return torch.float32


@option(MLMConfigs.precision, 'bf16')
def _bf16():
    return torch.bfloat16


@option(MLMConfigs.compile, 'auto')
def _auto_compile(c: MLMConfigs):
    n_tokens = c.epochs * len(c.train_loader) * c.batch_size * c.seq_len // ranks().size
    return not c.parallel.is_sharded and pays_to_compile(c.model, n_tokens=n_tokens)


@option(MLMConfigs.engine, 'engine')
def _engine(c: MLMConfigs):
    # One of somebody else's, even if it is derived from ours, may mask more, and what has no place would be left out
    n_places = None
    if type(c.mlm) is MLM:
        # The same all the time, as what is compiled has one shape
        highest = max(c.masking_schedule(i / 1000) for i in range(1001)) if c.masking_schedule else None
        n_places = functools.partial(c.mlm.n_places, masking_prob=highest if c.compile else None)
    return Engine(c.model, precision=c.precision, is_compiled=c.compile, accumulate=c.accumulate,
                  shape=(c.seq_len, c.batch_size), n_places=n_places, ranks=ranks(), parallel=c.parallel)


@option(MLMConfigs.optimizer, 'mlm')
def _optimizer(c: MLMConfigs) -> MLMOptimizerConfigs:
    return _of_model(c, MLMOptimizerConfigs())


@option(MLMConfigs.optimizer, 'muon')
def _muon(c: MLMConfigs) -> MuonConfigs:
    return _of_model(c, MuonConfigs())


def _of_model(c: MLMConfigs, conf: MLMOptimizerConfigs) -> MLMOptimizerConfigs:
    conf.parameters = list(c.model.parameters())
    conf.matrices = [m.weight for m in c.model.encoder.modules() if isinstance(m, nn.Linear)]
    conf.set_default(MLMOptimizerConfigs.d_model, func=lambda: c.transformer.d_model)
    return conf


@option(MLMConfigs.lr_schedule, 'warmup_cosine')
def _warmup_cosine(c: MLMConfigs):
    return _with_end(c, warmup_cosine)


@option(MLMConfigs.lr_schedule, 'warmup_linear')
def _warmup_linear(c: MLMConfigs):
    return _with_end(c, warmup_linear)


@option(MLMConfigs.lr_schedule, 'wsd')
def _wsd(c: MLMConfigs):
    return _with_end(c, functools.partial(warmup_stable_decay, decay_share=c.lr_decay_share))


def _with_end(c: MLMConfigs, schedule: Callable[..., float]) -> Callable[[int], float]:
    def of_step(step: int) -> float:
        total_steps = c.progress.steps + c.progress.steps_left(c.train_loader, epochs=c.epochs)
        return schedule(step, warmup_steps=c.lr_warmup_steps, total_steps=total_steps, min_share=c.lr_min_share)
    return of_step


@option(MLMConfigs.lr_schedule, 'inverse_sqrt')
def _inverse_sqrt(c: MLMConfigs):
    return functools.partial(inverse_sqrt, warmup_steps=c.lr_warmup_steps)


@option(MLMConfigs.lr_schedule, 'noam')
def _noam(c: MLMConfigs):
    return functools.partial(noam, warmup_steps=c.lr_warmup_steps, d_model=c.transformer.d_model)


@option(MLMConfigs.lr_schedule, 'constant')
def _constant():
    return lambda step: 1.


@option(MLMConfigs.scheduler, 'lambda')
def _scheduler(c: MLMConfigs):
    schedule = (lambda step: 1.) if has_own_schedule(c.optimizer) else c.lr_schedule
    return torch.optim.lr_scheduler.LambdaLR(c.optimizer, schedule)


@option(MLMConfigs.sampler, 'prompts')
def _sampler(c: MLMConfigs):
    prompts = [torch.from_numpy(c.tokenizer.encode(prompt)).long() for prompt in c.prompt]
    if not all(0 < len(prompt) <= c.model.max_seq_len for prompt in prompts):
        raise UserError(f'the prompts have {", ".join(str(len(prompt)) for prompt in prompts)} tokens: '
                        f'each has to have at least 1, and at most what the model takes, {c.model.max_seq_len}')
    if not prompts and c.n_prompts:
        # Columns of the first batch, `[seq_len, batch_size]`: their first documents, without padding
        batch = Batch.of(next(iter(c.valid_loader)), padding_token=c.padding_token, is_padded=True)
        batch = batch.to(torch.device('cpu'))
        shown = ~batch.key_padding if batch.document is None else batch.document == 1
        spaced = range(0, shown.shape[1], -(-shown.shape[1] // c.n_prompts))
        prompts = [batch.tokens[:, i][shown[:, i]] for i in spaced]
        prompts = [prompt for prompt in prompts if len(prompt)]
    mlm = MLM(padding_token=c.padding_token, mask_token=c.mask_token, no_mask_tokens=c._unmasked_tokens,
              n_tokens=c.n_tokens, masking_prob=c.valid_masking_prob, randomize_prob=0., no_change_prob=0.,
              generator=torch.Generator().manual_seed(0))
    return Sampler(prompts, tokens=c.tokenizer.tokens, mlm=mlm)

