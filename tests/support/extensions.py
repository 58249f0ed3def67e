"""
A project of a user's own, with one extension of each kind. Each is an option, chosen by name; methods are overridden in
`Steps`, chosen by the environment variable `STEPS`.
"""
import os

import numpy as np
import torch
from labml import logger, tracker
from labml.configs import option
from labml_nn.transformers.feed_forward import FeedForward
from torch import nn
from torch.utils.data import DataLoader

from labml_mlm import MLM, MLMConfigs, MLMTransformerConfigs, train
from labml_mlm.data import Batch
from labml_mlm.model.transformer import MLMFeedForwardConfigs
from labml_mlm.tokenization import CharacterTokenizer


class Configs(MLMConfigs):
    pass


@option(Configs.text, 'poems')
def _text(c: Configs):
    """A text source: documents, one at a time."""
    return (f'{animal} jumps over the lazy dog, as quick as a brown fox\n' * 3
            for animal in ('a fox', 'the cat', 'my horse', 'one hen') * 25)


class LowerCase(CharacterTokenizer):
    kind = 'lower_case'

    def encode(self, text: str) -> np.ndarray:
        return super().encode(text.lower())


@option(Configs.tokenizer, 'lower_case')
def _tokenizer(c: Configs):
    return LowerCase.from_characters(c.corpus.characters.lower())


class Batches:
    """A loader of Hugging Face's kind: dictionaries, batch first."""

    def __init__(self, tokens: torch.Tensor, seq_len: int, batch_size: int):
        windows = tokens[:len(tokens) // seq_len * seq_len].view(-1, seq_len)
        self.loader = DataLoader([{'input_ids': window.to(torch.int32)} for window in windows], batch_size=batch_size)

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            yield {**batch, 'attention_mask': torch.ones_like(batch['input_ids'])}


@option(Configs.train_loader, 'hugging_face')
def _train_loader(c: Configs):
    return Batches(c.train_tokens, c.seq_len, c.batch_size)


@option(Configs.train_loader, 'masked')
def _masked_loader(c: Configs):
    """Batches that are masked already."""
    def masked(windows: list[torch.Tensor]) -> Batch:
        x = torch.stack(windows).long()
        is_masked = torch.arange(x.shape[1]) % 3 == 1
        return Batch(x.masked_fill(is_masked, c.mask_token), labels=x.masked_fill(~is_masked, -100), batch_first=True)

    return DataLoader(list(c.train_tokens.view(torch.uint8)[:8000].view(-1, c.seq_len)), batch_size=c.batch_size,
                      shuffle=True, collate_fn=masked)


@option(Configs.masking, 'pairs')
def _masking(c: Configs):
    """Two tokens in a row are masked together, or not at all."""
    return lambda x, rand: (torch.arange(len(x), device=x.device) % 2 == 0)[:, None].expand_as(x)


@option(Configs.valid_mlm, 'global')
def _valid_mlm(c: Configs):
    """Draws from the global generator."""
    return MLM(padding_token=c.padding_token, mask_token=c.mask_token, no_mask_tokens=[], n_tokens=c.n_tokens)


@option(Configs.valid_mlm, 'labml_nn')
def _labml_valid_mlm(c: Configs):
    from labml_nn.transformers.mlm import MLM as LabmlMLM

    return LabmlMLM(padding_token=c.padding_token, mask_token=c.mask_token, no_mask_tokens=[], n_tokens=c.n_tokens)


class TorchAttention(nn.Module):
    """torch's attention, as a layer calls it."""

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(d_model, n_heads)

    def forward(self, *, query, key, value, mask=None):
        blocked = None
        if mask is not None:
            # From `[query, key, batch]` to `[batch * heads, query, key]`
            blocked = ~mask.expand(len(query), -1, -1).permute(2, 0, 1).repeat_interleave(self.attention.num_heads, 0)
        return self.attention(query, key, value, attn_mask=blocked, need_weights=False)[0]


@option(MLMTransformerConfigs.encoder_attn, 'torch')
def _attention(c: MLMTransformerConfigs):
    return TorchAttention(c.d_model, c.n_heads)


class SquaredReLU(nn.Module):
    def forward(self, x):
        return x.relu().square()


@option(MLMFeedForwardConfigs.ffn, 'squared')
def _ffn(c: MLMFeedForwardConfigs):
    return FeedForward(c.d_model, c.d_ff, c.dropout, SquaredReLU())


class PostNorm(nn.Module):
    """A layer of the first transformers: norms come after the sums."""

    def __init__(self, c: MLMTransformerConfigs):
        super().__init__()
        self.self_attn, self.feed_forward = c.encoder_attn, c.ffn.ffn
        self.norms = nn.ModuleList([nn.LayerNorm(c.d_model), nn.LayerNorm(c.d_model)])
        # Of the encoder's last norm
        self.size = c.d_model

    def forward(self, *, x, mask):
        x = self.norms[0](x + self.self_attn(query=x, key=x, value=x, mask=mask))
        return self.norms[1](x + self.feed_forward(x))


@option(MLMTransformerConfigs.encoder_layer, 'post_norm')
def _layer(c: MLMTransformerConfigs):
    return PostNorm(c)


@option(Configs.optimizer, 'nadam')
def _optimizer(c: Configs):
    return torch.optim.NAdam(c.model.parameters(), lr=2e-3)


@option(Configs.scheduler, 'steps')
def _scheduler(c: Configs):
    return torch.optim.lr_scheduler.StepLR(c.optimizer, step_size=10, gamma=0.5)


class Lengths:
    """A sampler: prints the number of weights in place of prompts."""

    def fill(self, model, device):
        logger.log(f'{sum(p.numel() for p in model.parameters())} weights')
        return []


@option(Configs.sampler, 'lengths')
def _sampler(c: Configs):
    return Lengths()


class Steps(Configs):
    """A metric, a step and an epoch of one's own."""

    def step(self, batch, batch_idx):
        if not self.mode.is_train or batch_idx.idx % 2:
            super().step(batch, batch_idx)
            return
        # Every other token is to be predicted
        self.model.train()
        batch = self.read_batch(batch)
        x = batch.tokens
        is_masked = (torch.arange(len(x)) % 2 == 0)[:, None]
        labels = x.where(is_masked, self.padding_token)
        output = self.engine.forward_backward(x.masked_fill(is_masked, self.mask_token), labels, None, None)
        tracker.add_global_step(batch.n_tokens)
        self.step_metrics.add({'loss.': output.loss})
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.step_metrics.save()

    def training_step(self, batch):
        super().training_step(batch)
        tracker.add('norm', sum(p.detach().norm() for p in self.model.parameters()))

    def run_step(self):
        super().run_step()
        logger.log(f'Epoch {self.progress.epoch} is over')


train(Steps() if os.environ.get('STEPS') else Configs(), name='test')
