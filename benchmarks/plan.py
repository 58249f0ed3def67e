"""
# Many GPUs, on paper

    python benchmarks/plan.py

The tables of `docs/scaling.md`: what steps of BERT-base and BERT-large would take on 8, 64 and 1,024 GPUs. Nothing is
measured here; what goes in, and where it is from, stands there.
"""
import math
from typing import NamedTuple

from labml_mlm import MLMTransformerConfigs
from labml_mlm.inference.load import silent


class Cluster(NamedTuple):
    """What the plan takes for granted; published figures of NVIDIA's DGX H100."""
    # Operations a second, dense, bf16, and the share of them that training reaches
    peak: float = 989e12
    share_of_peak: float = 0.4
    # Bytes a second of a GPU, each direction: NVLink 4 within a machine, and a 400 Gb/s adapter to the others
    within: float = 450e9
    between: float = 50e9
    # Share of them that large messages reach
    share_of_rate: float = 0.8
    gpus: int = 8
    # Seconds of a message
    latency_within: float = 5e-6
    latency_between: float = 15e-6
    # Bytes of a bucket
    bucket: float = 25 * 2 ** 20


def sizes(d_model: int, n_layers: int, n_heads: int, n_tokens: int = 30_522) -> tuple[float, float]:
    """
    Parameters of a model, and weights of its matrix products; of those of the layer that predicts the share that is
    masked.
    """
    counts = []
    for n in (1, 2):
        # All layers have as many, and a large model takes half a minute to make
        conf = MLMTransformerConfigs()
        conf._set_values({'n_src_vocab': n_tokens, 'n_tgt_vocab': n_tokens, 'd_model': d_model, 'n_heads': n_heads,
                          'n_layers': n, 'ffn.d_ff': 4 * d_model})
        with silent():
            model = conf.transformer_mlm
        counts.append([sum(p.numel() for p in part.parameters()) for part in (model, model.encoder)])
    n_parameters, of_encoder = (one + (n_layers - 1) * (two - one) for one, two in zip(*counts, strict=True))
    return n_parameters, of_encoder + 0.15 * n_tokens * d_model


def predicted(n_parameters: float, n_weights: float, tokens: float, n_gpus: int, *, bytes_a_parameter: float,
              c: Cluster) -> tuple[float, float, float]:
    """
    Seconds that a step computes, that it communicates, and that it takes with the overlap of the two.

    * `n_weights` are those of matrix products, 6 operations each a token
    * `tokens` are those of a GPU
    * `bytes_a_parameter` is what a GPU sends on the ring of an endless number of them
    """
    compute = 6 * n_weights * tokens / (c.peak * c.share_of_peak)
    n_machines, n_bytes = n_gpus // c.gpus, bytes_a_parameter * n_parameters
    n_buckets = math.ceil(4 * n_parameters / c.bucket)
    within = n_bytes * (c.gpus - 1) / c.gpus / (c.within * c.share_of_rate)
    # Each GPU of a machine has a slice of what its machine has summed up, and sends that to those of the others
    between = n_bytes / c.gpus * (n_machines - 1) / n_machines / (c.between * c.share_of_rate)
    latency = n_buckets * 2 * (math.log2(c.gpus) * c.latency_within + math.log2(n_machines) * c.latency_between)
    communicate = within + between + latency
    # The last bucket, and what does not fit beside the backward pass, which is two thirds of the computation
    hidden = min(communicate * (1 - 1 / n_buckets), 2 / 3 * compute)
    return compute, communicate, compute + communicate - hidden


def main():
    """Prints the tables."""
    models = {'BERT-base': (768, 12, 12), 'BERT-large': (1024, 24, 16)}
    c = Cluster()
    for title, tokens_of in (('32 sequences of 512 a GPU', lambda n: 32 * 512),
                             ('4,096 sequences of 512 in all', lambda n: 4096 * 512 / n)):
        print(f'\n**{title}**\n')
        print('| model | GPUs | sequences in all | compute, ms | communicate, ms | step, ms | efficiency | with fsdp |')
        print('|---|---|---|---|---|---|---|---|')
        for name, (d_model, n_layers, n_heads) in models.items():
            n_parameters, n_weights = sizes(d_model, n_layers, n_heads)
            for n in (8, 64, 1024):
                tokens = tokens_of(n)
                compute, communicate, step = predicted(n_parameters, n_weights, tokens, n, bytes_a_parameter=8, c=c)
                *_, sliced = predicted(n_parameters, n_weights, tokens, n, bytes_a_parameter=12, c=c)
                print(f'| {name}, {n_parameters / 1e6:.0f} M | {n:,} | {tokens * n / 512:,.0f} | {1e3 * compute:.1f} | '
                      f'{1e3 * communicate:.1f} | {1e3 * step:.1f} | {compute / step:.0%} | {compute / sliced:.0%} |')
    print()


if __name__ == '__main__':
    main()
