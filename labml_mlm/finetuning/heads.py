r"""
# Heads and losses of fine-tuning

An encoder that was pre-trained gets a new head, and both are trained on labelled texts
([Devlin et al. 2019](https://arxiv.org/abs/1810.04805), section 4). Of the hidden states $h_1 \dots h_n$ of a text, a
`TextHead` makes one vector. With `mean` it is their mean; with `cls` it is BERT's *pooler* of the first one,
$\tanh(W h_1 + b)$, whose weights a published encoder may have. A `TagHead` predicts a label of each token. Both end
with dropout and a linear layer.

The losses are sums, which the engine divides by the number of labels of the whole batch:

| labels | loss |
|---|---|
| one of several, also of each token | cross-entropy; of a label $c$ times its weight $w_c$ |
| any of several | binary cross-entropy of each |
| a number $y$ | $(z - \hat y)^2$ with $z = (y - \mu) / \sigma$, from mean and standard deviation of training labels |
"""
import copy
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from labml_mlm.labelled.examples import NO_LABEL
from labml_mlm.model.dropout import Dropout
from labml_mlm.model.transformer import TransformerMLM

# BERT's, of a new layer
_STD = 0.02


class TaskOutput(NamedTuple):
    """The result for a batch; the first four are tensors without dimensions, as those of `MLMOutput`."""
    # `loss_sum / max(1, n_labels)`
    loss: Tensor
    loss_sum: Tensor
    n_labels: Tensor
    # Number of labels that are predicted right; 0 where they are numbers
    n_correct: Tensor
    # What is predicted, of the shape of the labels
    predicted: Tensor


class TaskTransformer(TransformerMLM):
    """
    ## Embed, encode, predict labels

    * `pretrained` is a model whose embeddings and encoder it takes over
    * `head` maps hidden states and a padding mask to logits
    * `criterion` is one of the losses below
    """

    def __init__(self, pretrained: TransformerMLM, head: nn.Module, criterion: nn.Module):
        super().__init__(src_embed=pretrained.src_embed, encoder=pretrained.encoder, generator=head,
                         padding_token=pretrained.padding_token)
        self.criterion = criterion

    def forward(self, x: Tensor, labels: Tensor, *, padding_mask: Tensor | None = None,
                document_ids: Tensor | None = None, segment_ids: Tensor | None = None,
                n_positions: int | None = None) -> TaskOutput:
        """
        * `x` has token ids, `[seq_len, batch_size]`; padding mask and segment ids are those of `TransformerMLM.forward`
        * `labels` has shape `[n, batch_size]`: ids of labels with n = 1, or n = `seq_len` for those of tokens; 0 or 1
          for each of n labels; numbers with n = 1
        """
        logits = self.predict(x, padding_mask=padding_mask, document_ids=document_ids, segment_ids=segment_ids).float()
        loss_sum, predicted = self.criterion(logits, labels)
        n_labels = (labels != self.ignored_label).sum()
        n_correct = ((predicted == labels) & (labels != self.ignored_label)).sum()
        return TaskOutput(loss_sum / n_labels.clamp(min=1), loss_sum, n_labels, n_correct, predicted)

    def predict(self, x: Tensor, *, padding_mask: Tensor | None = None, document_ids: Tensor | None = None,
                segment_ids: Tensor | None = None) -> Tensor:
        """Logits, `[batch_size, n_logits]` or, of tokens, `[seq_len, batch_size, n_logits]`."""
        return self.generator(self.encode(x, padding_mask, document_ids, segment_ids=segment_ids), padding_mask)

    @torch.no_grad()
    def plain_head(self) -> nn.Module:
        """A copy of the head on the CPU, in evaluation mode, whose logits are the numbers where it predicts such."""
        head = copy.deepcopy(self.generator).cpu().eval()
        if isinstance(self.criterion, Number):
            mean, std = self.criterion.mean.cpu(), self.criterion.std.cpu()
            head.output.weight.mul_(std)
            head.output.bias.mul_(std).add_(mean)
        return head

    @property
    def ignored_label(self) -> float:
        """What stands in labels where nothing is to be predicted."""
        return self.criterion.ignored


class TextHead(nn.Module):
    """
    ## One prediction for each text

    * `pooling` is `mean` or `cls`
    * `pooler` has the weights of a trained layer for `cls`, if there is one
    """

    def __init__(self, d_model: int, n_logits: int, *, pooling: str, dropout: float, generator: torch.Generator,
                 pooler: Mapping[str, Tensor] | None = None):
        super().__init__()
        self.pooling = pooling
        self.pooler = None
        if pooling == 'cls':
            self.pooler = _new_linear(d_model, d_model, generator)
            if pooler is not None:
                self.pooler.load_state_dict(pooler)
        self.dropout = Dropout(dropout)
        self.output = _new_linear(d_model, n_logits, generator)

    def forward(self, hidden: Tensor, padding_mask: Tensor | None) -> Tensor:
        """
        * `hidden` has hidden states, `[seq_len, batch_size, d_model]`
        * `padding_mask` is true at padding, `[seq_len, batch_size]`

        Returns logits, `[batch_size, n_logits]`.
        """
        if self.pooler is not None:
            pooled = self.pooler(hidden[0]).tanh()
        elif padding_mask is None:
            pooled = hidden.mean(dim=0)
        else:
            is_text = ~padding_mask[..., None]
            pooled = (hidden * is_text).sum(dim=0) / is_text.sum(dim=0)
        return self.output(self.dropout(pooled))


class TagHead(nn.Module):
    """
    ## A prediction for each token
    """

    def __init__(self, d_model: int, n_logits: int, *, dropout: float, generator: torch.Generator):
        super().__init__()
        self.dropout = Dropout(dropout)
        self.output = _new_linear(d_model, n_logits, generator)

    def forward(self, hidden: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Logits, `[seq_len, batch_size, n_logits]`; the arguments are those of `TextHead.forward`."""
        return self.output(self.dropout(hidden))


class OneLabel(nn.Module):
    """
    ## The loss of one of several labels, of texts or tokens

    * `weight` has that of each label, `[n_labels]`; in training only
    """
    ignored = NO_LABEL

    def __init__(self, weight: Tensor | None = None):
        super().__init__()
        # Known from the training labels
        self.register_buffer('weight', weight, persistent=False)

    @classmethod
    def balanced(cls, labels: np.ndarray) -> 'OneLabel':
        """With weights such that each label counts as much as any other, whose ids are those in training, `[n]`."""
        counts = np.bincount(labels)
        return cls(torch.from_numpy(len(labels) / (len(counts) * counts)).float())

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the losses, and what is predicted, of the shape of `labels`."""
        weight = self.weight if self.training else None
        loss_sum = functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), weight, ignore_index=NO_LABEL,
                                            reduction='sum')
        return loss_sum, self.predicted(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of the same shape."""
        return logits.softmax(dim=-1)

    def predicted(self, logits: Tensor) -> Tensor:
        """Ids of labels, `[1, batch_size]` or `[seq_len, batch_size]`."""
        predicted = logits.argmax(dim=-1)
        return predicted[None] if predicted.ndim == 1 else predicted


class AnyLabels(nn.Module):
    """
    ## The loss of any of several labels

    * `weight` multiplies the loss of a label where it is right, `[n_labels]`; in training only
    """
    # All count
    ignored = NO_LABEL

    def __init__(self, weight: Tensor | None = None):
        super().__init__()
        self.register_buffer('weight', weight, persistent=False)

    @classmethod
    def balanced(cls, labels: np.ndarray) -> 'AnyLabels':
        """
        With weights such that it counts as much that a label is there as that it is not; `[n, n_labels]`. A label that
        all texts have keeps the weight 1.
        """
        counts = labels.sum(axis=0)
        return cls(torch.from_numpy(np.where(counts < len(labels), len(labels) - counts, counts) / counts).float())

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the losses, and what is predicted: 0 or 1, `[n_labels, batch_size]`."""
        weight = self.weight if self.training else None
        loss_sum = functional.binary_cross_entropy_with_logits(logits, labels.T, pos_weight=weight, reduction='sum')
        return loss_sum, self.predicted(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of the same shape."""
        return logits.sigmoid()

    def predicted(self, logits: Tensor) -> Tensor:
        """The labels with a probability above a half, as 0 or 1, `[n_labels, batch_size]`."""
        return (logits > 0).float().T


class Number(nn.Module):
    """
    ## The loss of a number

    * `mean` and `std` are those of the training labels
    """
    # Labels are finite
    ignored = float('inf')

    def __init__(self, mean: float = 0., std: float = 1.):
        super().__init__()
        self.register_buffer('mean', torch.tensor(mean))
        self.register_buffer('std', torch.tensor(std))

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the losses, in units of the variance, and what is predicted, `[1, batch_size]`."""
        return ((logits.T - (labels - self.mean) / self.std) ** 2).sum(), self.predicted(logits)

    def predicted(self, logits: Tensor) -> Tensor:
        """Numbers, `[1, batch_size]`."""
        return logits.T * self.std + self.mean


def _new_linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    linear = nn.Linear(n_in, n_out)
    nn.init.trunc_normal_(linear.weight, std=_STD, a=-2 * _STD, b=2 * _STD, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear
