"""
# Data parallelism on many GPUs: arithmetic, not measurements

    python benchmarks/plan.py [--peak 989] [--efficiency 0.4] [--link 450] [--gpus 8 64 1024] [--help]

Computes how long steps of BERT-base and BERT-large would take with DDP and FSDP, from published peak and link rates and
assumed efficiencies. Nothing is measured: each table states the parameters that it follows from, all of which can be
overridden. `docs/scaling.md` has the formulas, and the tables for the defaults.
"""
import argparse
import math

from labml_mlm import MLMTransformerConfigs
from labml_mlm.common.exit import exit_on_error
from labml_mlm.inference.pretrained import silent

# d_model, layers, heads
MODELS = {'BERT-base': (768, 12, 12), 'BERT-large': (1024, 24, 16)}
# Name, default, unit and meaning of each parameter, by group
PARAMETERS = {
    'Rates': [
        ('peak', 989., 'TFLOP/s', 'peak rate of a GPU; published for H100 SXM, bf16 without sparsity: 989'),
        ('link', 450., 'GB/s', 'rate of a GPU within a machine, each direction; published for NVLink 4: 450'),
        ('network', 50., 'GB/s', 'rate of a GPU to other machines, each direction; a 400 Gb/s adapter: 50'),
    ],
    'Assumptions, computation': [
        ('efficiency', 0.4, '', 'fraction of the peak that a step reaches'),
        ('backward', 0.667, '', 'fraction of the computation that is the backward pass'),
        ('masking-prob', 0.15, '', 'fraction of tokens that are projected to the vocabulary'),
    ],
    'Assumptions, communication': [
        ('link-efficiency', 0.8, '', 'fraction of the rates of link and network that large messages reach'),
        ('link-latency', 5., 'µs', 'latency of a message within a machine'),
        ('network-latency', 15., 'µs', 'latency of a message between machines'),
        ('bucket', 25., 'MiB', 'size of a gradient bucket'),
        ('ddp-bytes', 8., '', 'bytes per parameter that a rank sends with DDP, for many ranks'),
        ('fsdp-bytes', 12., '', 'bytes per parameter that a rank sends with FSDP, for many ranks'),
    ],
    'Sizes': [
        ('gpus-per-machine', 8, '', 'GPUs of a machine'),
        ('seq-len', 512, '', 'sequence length'),
        ('vocabulary', 30_522, '', 'vocabulary size'),
    ],
}


def count_weights(d_model: int, n_layers: int, n_heads: int, a: argparse.Namespace) -> tuple[float, float]:
    """
    The parameters of a model, and the weights of its matrix products; those of the projection to the vocabulary count
    by the fraction of tokens that are projected.
    """
    counts = []
    for n in (1, 2):
        # Layers are equal, and a large model takes half a minute to build
        conf = MLMTransformerConfigs()
        conf._set_values({'n_src_vocab': a.vocabulary, 'n_tgt_vocab': a.vocabulary, 'd_model': d_model,
                          'n_heads': n_heads, 'n_layers': n, 'ffn.d_ff': 4 * d_model})
        with silent():
            model = conf.transformer_mlm
        counts.append([sum(p.numel() for p in part.parameters()) for part in (model, model.encoder)])
    n_parameters, n_encoder = (one + (n_layers - 1) * (two - one) for one, two in zip(*counts, strict=True))
    return n_parameters, n_encoder + a.masking_prob * a.vocabulary * d_model


def step_times(n_parameters: float, n_weights: float, n_tokens: float, n_gpus: int, bytes_per_parameter: float,
               a: argparse.Namespace) -> tuple[float, float, float]:
    """
    Seconds of computation, of communication, and of a step in which they overlap.

    * `n_weights` are those of matrix products, with 6 operations per token each
    * `n_tokens` are those of one GPU
    * `bytes_per_parameter` is what a rank sends, for many ranks
    """
    compute = 6 * n_weights * n_tokens / (a.peak * 1e12 * a.efficiency)
    # GPUs of a machine, and machines
    g = min(n_gpus, a.gpus_per_machine)
    m = n_gpus // g
    n_bytes, n_buckets = bytes_per_parameter * n_parameters, math.ceil(4 * n_parameters / (a.bucket * 2 ** 20))
    within = n_bytes * (g - 1) / g / (a.link * 1e9 * a.link_efficiency)
    # Each GPU of a machine exchanges one g-th of the gradients with other machines
    between = n_bytes / g * (m - 1) / m / (a.network * 1e9 * a.link_efficiency)
    latency = 2 * n_buckets * (math.log2(g) * a.link_latency + math.log2(m) * a.network_latency) * 1e-6
    communication = within + between + latency
    # The last bucket cannot overlap, nor can what takes longer than the backward pass
    hidden = min(communication * (1 - 1 / n_buckets), a.backward * compute)
    return compute, communication, compute + communication - hidden


def print_table(title: str, n_sequences: dict[int, float], weights: dict[str, tuple[float, float]],
                a: argparse.Namespace):
    """Prints a table with its parameters; `n_sequences` are those of one GPU, by the number of GPUs."""
    print(f'\n**{title}: arithmetic, not measured**\n')
    for group, parameters in PARAMETERS.items():
        values = (f'{name}={getattr(a, name.replace("-", "_")):g} {unit}'.rstrip() for name, _, unit, _ in parameters)
        print(f'* {group}: {", ".join(values)}')
    print('\n| model | GPUs | sequences | compute, ms | DDP: communication, ms | DDP: step, ms | DDP: scaling '
          '| FSDP: scaling |')
    print('|---|---|---|---|---|---|---|---|')
    for name, (n_parameters, n_weights) in weights.items():
        for n_gpus, n in n_sequences.items():
            compute, communication, step = step_times(n_parameters, n_weights, n * a.seq_len, n_gpus, a.ddp_bytes, a)
            *_, fsdp_step = step_times(n_parameters, n_weights, n * a.seq_len, n_gpus, a.fsdp_bytes, a)
            print(f'| {name}, {n_parameters / 1e6:.0f} M | {n_gpus:,} | {n * n_gpus:,.0f} | {1e3 * compute:,.1f} | '
                  f'{1e3 * communication:.1f} | {1e3 * step:,.1f} | {compute / step:.0%} | {compute / fsdp_step:.0%} |')


def parse_arguments() -> argparse.Namespace:
    """All parameters, with underscores in their names."""
    parser = argparse.ArgumentParser(description='Step times on many GPUs: arithmetic, not measurements.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for title, parameters in PARAMETERS.items():
        group = parser.add_argument_group(title)
        for name, default, unit, meaning in parameters:
            group.add_argument(f'--{name}', type=type(default), default=default,
                               help=f'{meaning}{f", in {unit}" if unit else ""}')
    group.add_argument('--gpus', type=int, nargs='+', default=[8, 64, 1024], help='numbers of GPUs')
    group.add_argument('--per-gpu', type=int, default=32, help='sequences per GPU, for the first table')
    group.add_argument('--total', type=int, default=4096, help='sequences of all GPUs, for the second table')
    a = parser.parse_args()
    if any(n < 1 or (n > a.gpus_per_machine and n % a.gpus_per_machine) for n in a.gpus):
        parser.error(f'--gpus: numbers above {a.gpus_per_machine} must be multiples of --gpus-per-machine')
    return a


def main():
    """Prints the tables."""
    a = parse_arguments()
    weights = {name: count_weights(*sizes, a) for name, sizes in MODELS.items()}
    print_table(f'{a.per_gpu:,} sequences per GPU', dict.fromkeys(a.gpus, a.per_gpu), weights, a)
    print_table(f'{a.total:,} sequences in total', {n: a.total / n for n in a.gpus}, weights, a)
    print()


if __name__ == '__main__':
    with exit_on_error():
        main()
