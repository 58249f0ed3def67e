r"""
# A layer with a short convolution

Most of what tells a masked character is next to it. Attention has to learn to look there, head by head; a depthwise
convolution over a few neighbours has nothing else to look at. Here it stands between the norm and attention,

$$z_t \leftarrow z_t + \sum_{k = -r}^{r} w_k \odot z_{t + k}$$

with a weight for each offset $k$ and each feature. Relatives: Primer ([So et al.
2021](https://arxiv.org/abs/2109.08668), section 3) has it behind the projections of causal attention, ConvBERT ([Jiang
et al. 2020](https://arxiv.org/abs/2008.02496)) in place of some heads. All weights are 0 at first, so the layer begins
as labml_nn's.

In the layout of labml_nn, `[seq_len, batch_size, d_model]`, the features of a token lie side by side, as those of a
pixel in a channels-last image: of height `seq_len` and width `batch_size`, with a kernel of width 1. So a convolution
of images takes it as it is, without a copy, and the sum with $z$ is in its weights. On CPUs that is a few times as fast
as a convolution of sequences.
"""
from typing import Any

import torch
from labml_nn.transformers.feed_forward import FeedForward
from labml_nn.transformers.models import TransformerLayer
from torch import Tensor, nn
from torch.nn import functional

from labml_mlm.model.encoder import attend_at, gather_positions
from labml_mlm.model.packed import DocumentMask


class LocalConvolution(nn.Module):
    """
    ## Adds a depthwise convolution over neighbours

    * `radius` is how many neighbours it sees to either side
    """

    def __init__(self, d_model: int, radius: int):
        super().__init__()
        self.radius = radius
        # Those of the offsets from -radius to radius
        self.taps = nn.Parameter(torch.zeros(2 * radius + 1, d_model))

    def forward(self, z: Tensor, mask: Tensor | DocumentMask | None = None) -> Tensor:
        """
        * `z` has shape `[seq_len, batch_size, d_model]`, and so has the result
        * `mask` is that of the layer: what a position may not attend to, it does not see either
        """
        if mask is None:
            is_center = torch.arange(len(self.taps), device=z.device) == self.radius
            return self._convolve(z, self.taps + is_center[:, None])
        if isinstance(mask, Tensor) and len(mask) == 1:
            # Padding, which no position sees
            return z + self._convolve(z * mask[0, :, :, None], self.taps)
        seen = self._seen(mask, len(z))
        # `[seq_len, batch_size, d_model, 2 * radius + 1]`
        neighbours = functional.pad(z, (0, 0, 0, 0, self.radius, self.radius)).unfold(0, len(self.taps), 1)
        return z + (neighbours * seen[:, :, None] * self.taps.T).sum(dim=-1)

    def _convolve(self, z: Tensor, taps: Tensor) -> Tensor:
        return (convolve_image if z.device.type == 'cpu' else convolve_sequences)(z, taps)

    def _seen(self, mask: Tensor | DocumentMask, seq_len: int) -> Tensor:
        """Which neighbours each position may attend to, `[seq_len, batch_size, 2 * radius + 1]`."""
        r = self.radius
        if isinstance(mask, DocumentMask):
            ids = mask.keys.ids.T
            neighbours = functional.pad(ids, (0, 0, r, r), value=-1).unfold(0, len(self.taps), 1)
            return neighbours == ids[:, :, None]
        index = torch.arange(seq_len, device=mask.device)[:, None]
        keys = index + torch.arange(-r, r + 1, device=mask.device)
        is_there = (keys >= 0) & (keys < seq_len)
        # `[seq_len, 2 * radius + 1, batch_size]`
        seen = mask[index, keys.clamp(0, seq_len - 1)] & is_there[:, :, None]
        return seen.transpose(1, 2)


def convolve_image(z: Tensor, taps: Tensor) -> Tensor:
    """
    The depthwise convolution of `z`, `[seq_len, batch_size, d_model]`, along positions, with zeros beyond the ends.
    `taps` are the weights of each offset, `[2 * radius + 1, d_model]`.
    """
    image = z.unsqueeze(0).permute(0, 3, 1, 2)
    found = functional.conv2d(image, taps.T[:, None, :, None], padding=(len(taps) // 2, 0), groups=z.shape[2])
    return found.permute(0, 2, 3, 1).squeeze(0)


def convolve_sequences(z: Tensor, taps: Tensor) -> Tensor:
    """The same as a convolution of sequences, whose layout is copied: the one that GPUs are fast at."""
    found = functional.conv1d(z.permute(1, 2, 0), taps.T[:, None], padding=len(taps) // 2, groups=z.shape[2])
    return found.permute(2, 0, 1)


class ConvLayer(TransformerLayer):
    """
    ## labml_nn's layer, with a convolution before attention

    The arguments are those of `TransformerLayer`, and the `radius` of the convolution.
    """

    def __init__(self, *, d_model: int, radius: int, **parts: Any):
        super().__init__(d_model=d_model, **parts)
        self.local = LocalConvolution(d_model, radius)

    def forward(self, *, x: Tensor, mask: Tensor | DocumentMask | None, positions: Tensor | None = None) -> Tensor:
        """
        * `x` has shape `[seq_len, batch_size, d_model]`
        * `mask` is that of `MLMEncoder.forward`
        * `positions` are those to compute, `[n_positions, batch_size]`; all, in order, by default

        Returns `[n_positions, batch_size, d_model]`.
        """
        if positions is not None and type(self.feed_forward) is not FeedForward:
            # It might mix neighbours
            return gather_positions(self(x=x, mask=mask), positions)
        z = self.local(self.norm_self_attn(x), mask)
        if positions is None:
            attended = self.self_attn(query=z, key=z, value=z, mask=mask)
        else:
            attended, x = attend_at(self.self_attn, z, mask, positions), gather_positions(x, positions)
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.norm_ff(x)))
