"""
# A training step: labml_nn's against ours

    python benchmarks/step.py [--rounds 7] [--steps 20]

Measures tokens per second of a whole step (masking, forward, loss, backward, clipping, update) at labml_nn's size:
d_model 128, d_ff 256, 8 heads, 6 layers, batch 64 × seq_len 32, and what labml's tracker adds to ours. All sides run in
one process, taking turns, on the same batches of `python_topics`; the figures are medians over the rounds.

labml_nn's experiment does not run on today's labml, so its step is put together from its own parts (`MLM`,
`TransformerConfigs` with its default attention and dropout, `Noam`, the loss with `ignore_index`), with the shim of
`labml_mlm.compat`, and without the tracker.
"""
import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import labml
import labml_nn.transformers.mlm
import torch
from labml import tracker
from labml.internal.tracker import tracker_singleton
from labml_nn.optimizers.noam import Noam
from labml_nn.transformers import TransformerConfigs
from torch import Tensor, nn

from labml_mlm import MLMConfigs, screen
from labml_mlm.log_file import FileWriter
from labml_mlm.screen import PlainWriter


def labml_nn_step(conf: MLMConfigs) -> Callable[[Tensor], None]:
    """The step of labml_nn's MLM experiment, untracked, on the vocabulary of `conf`."""
    transformer = TransformerConfigs()
    transformer._set_values({'d_model': 128, 'ffn.d_ff': 256, 'n_heads': 8, 'n_layers': 6,
                             'n_src_vocab': conf.n_tokens, 'n_tgt_vocab': conf.n_tokens})
    model = nn.ModuleList([transformer.src_embed, transformer.encoder, transformer.generator]).to(conf.device)
    embed, encoder, generator = model
    mlm = labml_nn.transformers.mlm.MLM(padding_token=conf.padding_token, mask_token=conf.mask_token,
                                        no_mask_tokens=[], n_tokens=conf.n_tokens)
    optimizer = Noam(model.parameters(), lr=1., warmup=2000, d_model=128)
    loss_func = nn.CrossEntropyLoss(ignore_index=conf.padding_token)

    def step(batch: Tensor):
        x, y = mlm(batch.clone().to(conf.device))
        logits = generator(encoder(embed(x), None))
        loss_func(logits.view(-1, conf.n_tokens), y.view(-1)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(conf: MLMConfigs) -> Callable[[Tensor], None]:
    """The step of `conf`, tracked."""
    def step(batch: Tensor):
        with conf.mode.update(is_train=True), tracker.namespace('train'):
            conf.step(batch, None)

    return step


def tracking_of_a_step() -> Callable[[Tensor], None]:
    """What a step of ours tracks, and nothing else."""
    loss, accuracy = torch.tensor(1., requires_grad=True), torch.tensor(0.5)

    def step(batch: Tensor):
        with tracker.namespace('train'):
            tracker.add_global_step(batch.numel())
            tracker.add('loss.', loss)
            tracker.add('accuracy.', accuracy)
            tracker.add('lr', 1e-3)
            tracker.add('tokens_per_second', 1e4)
            tracker.save()

    return step


def synchronize(device: torch.device):
    """Waits for the GPU, if it is one."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--steps', type=int, default=20, help='steps of each side in a round')
    arguments = parser.parse_args()

    screen.set_up()
    conf = MLMConfigs()
    conf._set_values({'text': 'python_topics'})
    conf.init()
    with tempfile.TemporaryDirectory() as folder:
        writer = FileWriter(Path(folder) / 'log.jsonl')
        tracker_singleton().reset_writers()
        tracker_singleton().add_writer(writer)
        tracker_singleton().add_writer(PlainWriter(interval=float('inf')))
        seconds = measure({'labml_nn': labml_nn_step(conf), 'ours': our_step(conf),
                           'tracker alone': tracking_of_a_step()}, conf, arguments)
        writer.finish()

    n_tokens = conf.batch_size * conf.seq_len
    print(f'\nPython {platform.python_version()}, torch {torch.__version__}, labml {labml.__version__}, '
          f'{os.cpu_count()} CPUs, {torch.get_num_threads()} threads, {conf.device}')
    print(f'{arguments.rounds} rounds of {arguments.steps} steps of {n_tokens} tokens, medians\n')
    print(f'{"":12}{"ms/step":>10}{"tokens/s":>12}{"ratio":>8}')
    for name in ('labml_nn', 'ours'):
        times = seconds[name]
        ratio = statistics.median(a / b for a, b in zip(seconds['labml_nn'], times, strict=True))
        median = statistics.median(times)
        print(f'{name:12}{1000 * median:10.1f}{n_tokens / median:12,.0f}{ratio:8.2f}')
    share = statistics.median(a / b for a, b in zip(seconds['tracker alone'], seconds['ours'], strict=True))
    print(f'\nThe tracker takes {share:.2%} of our step')


def measure(sides: dict[str, Callable], conf: MLMConfigs, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds a step of each side, one figure a round; the sides take turns."""
    batches = [batch for _, batch in zip(range(arguments.steps), conf.train_loader, strict=False)]
    seconds = {name: [] for name in sides}
    for round_index in range(-1, arguments.rounds):
        for name, step in sides.items():
            synchronize(conf.device)
            began = time.perf_counter()
            for batch in batches:
                step(batch)
            synchronize(conf.device)
            # The round before the first one warms up
            if round_index >= 0:
                seconds[name].append((time.perf_counter() - began) / len(batches))
    return seconds


if __name__ == '__main__':
    main()
