"""
# A training step: ours, labml_nn's and Hugging Face's

    python benchmarks/step.py [--size tiny] [--sides NAME ...] [--rounds 7] [--steps 20] [--json FILE] [--plot FILE]

Tokens per second of a complete step (masking, forward, loss, backward, clipping, update), without loader and tracker,
which `overhead.py` measures. All sides have the same sizes and train on the same batches of `python_topics` (of random
tokens where the vocabulary is larger than that text's). They run in alternation in one process; figures are medians
over the rounds, and ratios those within a round.

* `of peak` is the rate of the model's operations, as a fraction of the rate of a large matrix product on this machine.
  It counts 6 operations per weight and token, attention, the predictions of masked tokens, and for all sides the whole
  last layer, part of which ours skips.
* `memory, MB` is the peak memory of a separate process, minus that after all imports.

| size | d_model | layers | heads | d_ff | vocabulary | batch |
|------|---------|--------|-------|------|------------|-------|
| tiny | 128 | 6 | 8 | 256 | that of the text | 64 × 32, as in labml_nn |
| mini | 256 | 4 | 4 | 1024 | 30,522 | 32 × 128 |
| base | 768 | 12 | 12 | 3072 | 30,522 | 32 × 512, for GPUs |

labml_nn's experiment does not run on current releases of labml, so its step is assembled from its own parts (`MLM`,
`TransformerConfigs` with its default attention and dropout, `Noam`, the loss with `ignore_index`), with the fixes of
`labml_mlm.common.labml_compat`. Hugging Face's BERT and ModernBERT (from the extra `bench`) use `sdpa` attention, no
dropout and torch's fused AdamW, eagerly and with `torch.compile`. They are skipped where `transformers` cannot be
imported, for example with a torchvision that does not match torch.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import labml_nn.transformers.mlm
import torch
from labml_nn.optimizers.noam import Noam
from labml_nn.transformers import TransformerConfigs
from torch import Tensor, nn

from labml_mlm import MLMConfigs
from labml_mlm.inference.pretrained import silent
from labml_mlm.screen import console

SIZES: dict[str, dict[str, Any]] = {
    'tiny': {},
    'mini': {'d_model': 256, 'transformer.n_layers': 4, 'transformer.n_heads': 4, 'transformer.ffn.d_ff': 1024,
             'n_tokens': 30_522, 'batch_size': 32, 'seq_len': 128},
    'base': {'d_model': 768, 'transformer.n_layers': 12, 'transformer.n_heads': 12, 'transformer.ffn.d_ff': 3072,
             'n_tokens': 30_522, 'batch_size': 32, 'seq_len': 512},
}
HUGGING_FACE = {'HF BERT': 'Bert', 'HF ModernBERT': 'ModernBert'}
COMPILED = ', compiled'
SIDES = 'labml_nn', *(name + how for name in ('HF BERT', 'HF ModernBERT', 'ours') for how in ('', COMPILED))

Step = Callable[[Tensor], None]


def configs(size: str, **values: Any) -> MLMConfigs:
    """Our configs of a size, built."""
    conf = MLMConfigs()
    conf._set_values({'text': 'python_topics', 'n_prompts': 0, **SIZES[size], **values})
    with silent():
        conf.init()
    conf.model.train()
    return conf


class LabmlNN(nn.Module):
    """The model of labml_nn's MLM experiment: token ids to logits, `[seq_len, batch_size, n_tokens]`."""

    def __init__(self, conf: MLMConfigs):
        super().__init__()
        ours, theirs = conf.transformer, TransformerConfigs()
        theirs._set_values({'d_model': ours.d_model, 'ffn.d_ff': ours.ffn.d_ff, 'n_heads': ours.n_heads,
                            'n_layers': ours.n_layers, 'n_src_vocab': conf.n_tokens, 'n_tgt_vocab': conf.n_tokens})
        with silent():
            self.embed, self.encoder, self.generator = theirs.src_embed, theirs.encoder, theirs.generator

    def forward(self, x: Tensor) -> Tensor:
        return self.generator(self.encoder(self.embed(x), None))


def labml_nn_step(conf: MLMConfigs, model: LabmlNN) -> Step:
    """The step of labml_nn's MLM experiment, without tracking."""
    mlm = labml_nn.transformers.mlm.MLM(padding_token=conf.padding_token, mask_token=conf.mask_token,
                                        no_mask_tokens=[], n_tokens=conf.n_tokens)
    optimizer = Noam(model.parameters(), lr=1., warmup=2000, d_model=conf.transformer.d_model)
    loss_func = nn.CrossEntropyLoss(ignore_index=conf.padding_token)

    def step(batch: Tensor):
        x, y = mlm(batch.clone().to(conf.device))
        loss_func(model(x).view(-1, conf.n_tokens), y.view(-1)).backward()
        update(model, optimizer)
    return step


def hugging_face(conf: MLMConfigs, kind: str) -> nn.Module:
    """`BertForMaskedLM` or `ModernBertForMaskedLM` of the same size. Raises `ImportError` if it cannot be imported."""
    try:
        return _hugging_face(conf, kind).to(conf.device)
    except (ImportError, RuntimeError) as e:
        # `operator torchvision::nms does not exist` is a `RuntimeError`
        raise ImportError(' '.join(str(e).split())[:100]) from None


def _hugging_face(conf: MLMConfigs, kind: str) -> nn.Module:
    import transformers

    ours = conf.transformer
    same = {'vocab_size': conf.n_tokens, 'hidden_size': ours.d_model, 'num_hidden_layers': ours.n_layers,
            'num_attention_heads': ours.n_heads, 'intermediate_size': ours.ffn.d_ff, 'attn_implementation': 'sdpa',
            'pad_token_id': conf.padding_token, 'max_position_embeddings': max(512, conf.seq_len)}
    if kind == 'Bert':
        config = transformers.BertConfig(**same, hidden_dropout_prob=0., attention_probs_dropout_prob=0.)
    else:
        special = conf.tokenizer.special
        config = transformers.ModernBertConfig(**same, cls_token_id=special.cls, sep_token_id=special.sep,
                                               bos_token_id=special.cls, eos_token_id=special.sep)
    return getattr(transformers, f'{kind}ForMaskedLM')(config)


def hugging_face_step(conf: MLMConfigs, model: nn.Module, optimizer: torch.optim.Optimizer, *,
                      is_compiled: bool = False) -> Step:
    """The step of one of Hugging Face's models, with our masking."""
    run = torch.compile(model, dynamic=False) if is_compiled else model

    def step(batch: Tensor):
        masked, labels = conf.mlm(batch.to(conf.device))
        labels = labels.masked_fill(labels == conf.padding_token, -100)
        with torch.autocast(conf.device.type, conf.precision, enabled=conf.precision != torch.float32):
            loss = run(input_ids=masked.T.contiguous(), labels=labels.T.contiguous()).loss
        loss.backward()
        update(model, optimizer)
    return step


def our_step(conf: MLMConfigs) -> Step:
    """Our step, without tracking."""
    def step(batch: Tensor):
        conf.engine.forward_backward(*conf.mlm(batch.to(conf.device)), None, None)
        update(conf.model, conf.optimizer)
    return step


def update(model: nn.Module, optimizer: torch.optim.Optimizer):
    """Clips the gradients and updates the weights."""
    nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.)
    optimizer.step()
    optimizer.zero_grad()


def make(name: str, size: str) -> tuple[Step, MLMConfigs]:
    """A side, by name. Raises `ImportError` if it needs a package that cannot be imported."""
    model, is_compiled = name.removesuffix(COMPILED), name.endswith(COMPILED)
    conf = configs(size, compile=model == 'ours' and is_compiled)
    if model == 'labml_nn':
        return labml_nn_step(conf, LabmlNN(conf).to(conf.device)), conf
    if model != 'ours':
        theirs = hugging_face(conf, HUGGING_FACE[model])
        optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, fused=True)
        return hugging_face_step(conf, theirs, optimizer, is_compiled=is_compiled), conf
    return our_step(conf), conf


def make_batches(conf: MLMConfigs, n: int) -> list[Tensor]:
    """Training batches: of the text if its vocabulary is the model's, otherwise of random tokens."""
    if conf.n_tokens == conf.tokenizer.n_tokens:
        return [batch for _, batch in zip(range(n), conf.train_loader, strict=False)]
    return [torch.randint(5, conf.n_tokens, (conf.seq_len, conf.batch_size)) for _ in range(n)]


def operations_per_token(conf: MLMConfigs) -> float:
    """Multiplications and additions of forward and backward."""
    transformer = conf.transformer
    weights = sum(weight.numel() for weight in conf.model.encoder.parameters())
    attention = 2 * transformer.n_layers * conf.seq_len * transformer.d_model
    head = conf.masking_prob * transformer.d_model * conf.n_tokens
    return 6 * (weights + attention + head)


def peak_rate(device: torch.device, precision: torch.dtype) -> float:
    """Operations per second of a large matrix product, the best of ten."""
    n = 2048 if device.type == 'cpu' else 8192
    a, b = (torch.randn(n, n, device=device, dtype=precision) for _ in range(2))
    best = float('inf')
    for _ in range(10):
        synchronize(device)
        began = time.perf_counter()
        a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * n ** 3 / best


def peak_memory(name: str, size: str) -> float | None:
    """Peak memory of a side in a separate process, in MB; that of the GPU if there is one. `None` if it fails."""
    folder = str(Path(__file__).parent)
    code = f'import sys; sys.path[:0] = [{folder!r}]; import step; step.print_memory{(name, size)!r}'
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    return float(result.stdout.split()[-1]) if result.returncode == 0 else None


def print_memory(name: str, size: str):
    """Called in a separate process: prints what `peak_memory` reads."""
    before = peak_resident()
    step, conf = make(name, size)
    for batch in make_batches(conf, 3):
        step(batch)
    print(torch.cuda.max_memory_allocated() / 1e6 if conf.device.type == 'cuda' else peak_resident() - before)


def peak_resident() -> float:
    """Peak resident memory of this process, in MB."""
    status = Path('/proc/self/status').read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith('VmHWM')) / 1e3


def synchronize(device: torch.device):
    """Waits for a GPU."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def measure(sides: dict[str, tuple[Step, MLMConfigs]], *, n_rounds: int, n_steps: int) -> dict[str, list[float]]:
    """Seconds per step by side, one value per round; the sides run in alternation."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    batches = make_batches(next(iter(sides.values()))[1], n_steps)
    for round_index in range(-1, n_rounds):
        for name, (step, conf) in sides.items():
            synchronize(conf.device)
            began = time.perf_counter()
            for batch in batches:
                step(batch)
            synchronize(conf.device)
            # Round -1 is warm-up, and compiles
            if round_index >= 0:
                seconds[name].append((time.perf_counter() - began) / n_steps)
    return seconds


def plot(results: list[dict], path: str):
    """A bar chart of tokens per second."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 0.6 * len(results) + 1))
    axes.barh([result['side'] for result in results][::-1], [result['tokens/s'] for result in results][::-1])
    axes.set_xlabel('tokens/s')
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main():
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--size', choices=SIZES, default='tiny')
    parser.add_argument('--sides', choices=SIDES, nargs='+', default=SIDES, help='ratios are relative to the first')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--steps', type=int, default=20, help='steps of each side per round')
    parser.add_argument('--json', help='a file for the figures')
    parser.add_argument('--plot', help='a PNG for the figures')
    arguments = parser.parse_args()
    console.set_up()
    sides = {}
    for name in arguments.sides:
        try:
            sides[name] = make(name, arguments.size)
        except ImportError as e:
            print(f'Skipping {name}: {e}')
    conf = next(iter(sides.values()))[1]
    n_tokens, peak = conf.batch_size * conf.seq_len, peak_rate(conf.device, conf.precision)
    seconds = measure(sides, n_rounds=arguments.rounds, n_steps=arguments.steps)
    results = []
    for name, times in seconds.items():
        speed = n_tokens / statistics.median(times)
        ratio = statistics.median(a / b for a, b in zip(next(iter(seconds.values())), times, strict=True))
        results.append({'side': name, 'ms/step': 1e3 * statistics.median(times), 'tokens/s': speed, 'ratio': ratio,
                        'of peak': speed * operations_per_token(conf) / peak,
                        'memory, MB': peak_memory(name, arguments.size)})
    about = (f'Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} CPUs, '
             f'{torch.get_num_threads()} threads, {conf.device}, {str(conf.precision).removeprefix("torch.")}')
    print(f'\n{about}; matrix products {peak / 1e9:,.0f} GFLOP/s')
    print(f'{arguments.size}: {arguments.rounds} rounds of {arguments.steps} steps of {n_tokens:,} tokens, '
          f'{operations_per_token(conf) / 1e6:.1f} MFLOP per token; medians\n')
    print(f'{"":24}{"ms/step":>10}{"tokens/s":>12}{"ratio":>8}{"of peak":>9}{"memory, MB":>12}')
    for result in results:
        memory = '-' if result['memory, MB'] is None else f'{result["memory, MB"]:,.0f}'
        print(f'{result["side"]:24}{result["ms/step"]:10.1f}{result["tokens/s"]:12,.0f}{result["ratio"]:8.2f}'
              f'{result["of peak"]:9.1%}{memory:>12}')
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({'about': about, 'size': arguments.size, 'peak': peak,
                                                    'sides': results, 'seconds': seconds}, indent=1))
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == '__main__':
    main()
