"""
# Going on with a BERT: ours beside Hugging Face's Trainer

    python benchmarks/domain.py [--model FOLDER] [--batches 16 64] [--rounds 5] [--steps 6] [--curves STEPS]
        [--text python_sources] [--seeds 1 2] [--json FILE]

BERT at MiniLM's sizes (6 layers, d_model 384, 12 heads, d_ff 1536, 30,522 embeddings, dropout 0.1), or that of a folder
of `save_pretrained`, trained on windows of 128 tokens of `python_topics`. Both sides begin with the same weights. They
have the same windows in the same order, AdamW with a peak of 1e-4, linear warm-up and decay, gradient clipping at 1,
and fp32. Ours is `MLMConfigs.step` with its loader, masking and tracker. Theirs is `Trainer` with
`DataCollatorForLanguageModeling` and `adamw_torch_fused`, without saving and reporting.

* Speed: tokens per second by turns in one process; medians over the rounds, and ratios those within a round. `of peak`
  is the rate of the model's operations as a fraction of that of a large matrix product, as in `step.py`.
* `memory, MB` is the peak memory of a separate process of five steps, minus that after all imports.
* `--curves` trains both for so many steps with each seed, on `--text`. It prints the loss and masked accuracy of both,
  by the same function, on the same masked validation windows.

Needs `transformers`, which cannot be imported beside a torchvision that does not match torch:

    pip install 'labml_mlm[bench]' && pip uninstall -y torchvision
"""
import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from labml import tracker
from labml.internal.tracker import tracker_singleton
from step import peak_rate, peak_resident
from torch import Tensor, nn

from labml_mlm import MLMConfigs
from labml_mlm.common.exit import exit_on_error
from labml_mlm.inference.pretrained import silent
from labml_mlm.published.represent import represent
from labml_mlm.published.start import PublishedEncoder
from labml_mlm.screen import console
from labml_mlm.training.valid_masking import RepeatedMasking

SIDES = 'Hugging Face', 'ours'
_MINILM = {'transformer': 'bert', 'd_model': 384, 'transformer.n_layers': 6, 'transformer.n_heads': 12,
           'n_tokens': 30_522, 'tokenizer': 'wordpiece', 'vocab_size': 8192}
_LR, _WARMUP = 1e-4, 10


def configs(model: str, *, text: str, batch_size: int, n_steps: int, seed: int = 1) -> MLMConfigs:
    """Our configs, built; `model` is a folder, or empty for random weights."""
    conf = MLMConfigs()
    values: dict[str, Any] = {
        'text': text, 'n_prompts': 0, 'seq_len': 128, 'batch_size': batch_size, 'max_steps': n_steps,
        'optimizer.learning_rate': _LR, 'lr_schedule': 'warmup_linear', 'lr_warmup_steps': _WARMUP, 'compile': False,
        'seed': seed}
    if model:
        source = PublishedEncoder(Path(model))
        conf._saved_tokenizer = source.tokenizer
        conf._initialize = source.load_weights
        values = source.run_values(values, conf)
    else:
        values |= _MINILM
    conf._set_values(values)
    with silent():
        conf.init()
    return conf


def endless(conf: MLMConfigs) -> Iterator[Any]:
    """The full batches of one epoch after another."""
    for batch in itertools.chain.from_iterable(conf.train_loader for _ in itertools.count()):
        if batch.tokens.shape[1] == conf.batch_size:
            yield batch


class Ours:
    """Our side."""

    def __init__(self, conf: MLMConfigs):
        self.conf = conf
        self.model = conf.model
        self._batches = endless(conf)

    def train(self, n_steps: int) -> float:
        """Seconds per step, without the first."""
        for i in range(n_steps + 1):
            with self.conf.mode.update(is_train=True), tracker.namespace('train'):
                self.conf.step(next(self._batches), None)
            if i == 0:
                began = time.perf_counter()
        return (time.perf_counter() - began) / n_steps

    def logits(self, x: Tensor) -> Tensor:
        """Of tokens `[seq_len, batch_size]`, `[seq_len, batch_size, n_tokens]`."""
        return self.model.eval().predict(x)


class HuggingFace:
    """Their side, with our weights and windows."""

    def __init__(self, conf: MLMConfigs):
        from transformers import BertConfig, BertForMaskedLM

        shown = represent(conf.model, conf)
        self.conf = conf
        self.model = BertForMaskedLM(BertConfig(**shown.family.config(shown.items)))
        missing, _ = self.model.load_state_dict(shown.weights, strict=False)
        # It is tied
        assert all('decoder' in name for name in missing), missing
        self.model.tie_weights()
        self._batches = endless(conf)

    def train(self, n_steps: int) -> float:
        """Seconds per step, without the first."""
        from transformers import (
            DataCollatorForLanguageModeling,
            PreTrainedTokenizerFast,
            PrinterCallback,
            Trainer,
            TrainerCallback,
            TrainingArguments,
        )

        class Windows(torch.utils.data.Dataset):
            """As many as are needed, in the order of our loader."""

            def __init__(self, batches: Iterator[Any], n: int):
                self.rows = [row for _ in range(n) for row in next(batches).tokens.T.tolist()]

            def __len__(self) -> int:
                return len(self.rows)

            def __getitem__(self, i: int) -> dict[str, list[int]]:
                return {'input_ids': self.rows[i]}

        class InOrder(Trainer):
            """Without shuffling: the windows are shuffled already."""

            def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
                return torch.utils.data.SequentialSampler(self.train_dataset)

        class Clock(TrainerCallback):
            """When the first and the last step ended."""
            began = ended = 0.

            def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any):
                if state.global_step == 1:
                    self.began = time.perf_counter()
                self.ended = time.perf_counter()

        vocabulary = self.conf.tokenizer
        names = {role: vocabulary.tokens[getattr(vocabulary.special, role)]
                 for role in ('pad', 'unk', 'cls', 'sep', 'mask')}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary.tokenizer, **{
            f'{role}_token': name for role, name in names.items()})
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder, per_device_train_batch_size=self.conf.batch_size, max_steps=n_steps + 1, learning_rate=_LR,
                lr_scheduler_type='linear', warmup_steps=_WARMUP, max_grad_norm=1., optim='adamw_torch_fused',
                save_strategy='no', report_to=[], disable_tqdm=True, logging_strategy='no', use_cpu=True,
                seed=self.conf.seed)
            trainer = InOrder(self.model, arguments, callbacks=[clock],
                              train_dataset=Windows(self._batches, n_steps + 1),
                              data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15))
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return (clock.ended - clock.began) / n_steps

    def logits(self, x: Tensor) -> Tensor:
        """Of tokens `[seq_len, batch_size]`, `[seq_len, batch_size, n_tokens]`."""
        return self.model.eval()(input_ids=x.T.contiguous()).logits.transpose(0, 1)


def make(name: str, model: str, *, text: str = 'python_topics', **sizes: int) -> Ours | HuggingFace:
    """A side, by name."""
    conf = configs(model, text=text, **sizes)
    return Ours(conf) if name == 'ours' else HuggingFace(conf)


@torch.no_grad()
def validate(side: Ours | HuggingFace) -> tuple[float, float]:
    """Loss in nats per masked token, and masked accuracy, on the validation text."""
    conf, masks = side.conf, RepeatedMasking(side.conf.valid_mlm)
    masks.restart()
    loss, n_right, n = 0., 0, 0
    for batch in conf.valid_loader:
        x, labels = masks(batch.tokens.clone())
        is_masked = labels != conf.padding_token
        logits = side.logits(x)[is_masked]
        loss += nn.functional.cross_entropy(logits, labels[is_masked], reduction='sum').item()
        n_right += int((logits.argmax(-1) == labels[is_masked]).sum())
        n += int(is_masked.sum())
    return loss / n, n_right / n


def print_memory(name: str, model: str, batch_size: int):
    """Called in a separate process: prints the peak memory of a side in MB, without that after all imports."""
    quiet()
    with_imports(name)
    before = peak_resident()
    make(name, model, batch_size=batch_size, n_steps=5).train(4)
    print(peak_resident() - before)


def with_imports(name: str):
    """Imports what a side needs."""
    if name != 'ours':
        from transformers import BertForMaskedLM, Trainer  # noqa: F401


def memory(name: str, model: str, batch_size: int) -> float:
    """Peak memory of a side in a separate process, in MB."""
    code = (f'import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]; import domain; '
            f'domain.print_memory({name!r}, {model!r}, {batch_size})')
    return float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                                check=True).stdout.split()[-1])


def operations_per_token(conf: MLMConfigs) -> float:
    """Multiplications and additions of forward and backward, with predictions of masked tokens only."""
    weights = sum(weight.numel() for weight in conf.model.encoder.parameters())
    attention = 2 * conf.transformer.n_layers * conf.seq_len * conf.d_model
    head = conf.masking_prob * (conf.d_model * conf.n_tokens + conf.d_model ** 2)
    return 6 * (weights + attention + head)


def quiet():
    """labml's tracker writes nowhere."""
    console.set_up()
    tracker_singleton().reset_writers()


def measure_speed(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints a table, and returns its rows."""
    rows = []
    print(f'{"batch":10}{"":14}{"tokens/s":>10}{"ratio":>8}{"of peak":>9}{"memory, MB":>12}{"ratio":>8}')
    for batch_size in arguments.batches:
        sides = {name: make(name, arguments.model, batch_size=batch_size, n_steps=10 ** 4) for name in SIDES}
        conf = sides['ours'].conf
        seconds: dict[str, list[float]] = {name: [] for name in SIDES}
        for round_index in range(-1, arguments.rounds):
            for name, side in sides.items():
                taken = side.train(arguments.steps if round_index >= 0 else 1)
                if round_index >= 0:
                    seconds[name].append(taken)
        peak = peak_rate(conf.device, conf.precision)
        used = {name: memory(name, arguments.model, batch_size) for name in SIDES}
        for name in SIDES:
            speed = batch_size * conf.seq_len / statistics.median(seconds[name])
            ratio = statistics.median(a / b for a, b in zip(seconds[SIDES[0]], seconds[name], strict=True))
            row = {'batch': f'{batch_size}×{conf.seq_len}', 'side': name, 'tokens/s': speed, 'ratio': ratio,
                   'of peak': speed * operations_per_token(conf) / peak, 'memory, MB': used[name],
                   'memory ratio': used[name] / used[SIDES[0]]}
            rows.append(row)
            print(f'{row["batch"]:10}{name:14}{speed:10,.0f}{ratio:8.2f}{row["of peak"]:9.1%}{used[name]:12,.0f}'
                  f'{row["memory ratio"]:8.2f}', flush=True)
    return rows


def measure_curves(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints validations at the beginning and at the end of each run, and returns them."""
    rows = []
    print(f'\n{"seed":6}{"":14}{"loss":>9}{"accuracy":>10}   before: loss, accuracy')
    for seed, name in itertools.product(arguments.seeds, SIDES):
        torch.manual_seed(seed)
        side = make(name, arguments.model, text=arguments.text, batch_size=16, n_steps=arguments.curves, seed=seed)
        before = validate(side)
        side.train(arguments.curves - 1)
        loss, accuracy = validate(side)
        rows.append({'seed': seed, 'side': name, 'loss': loss, 'accuracy': accuracy, 'before': before})
        print(f'{seed:<6}{name:14}{loss:9.4f}{accuracy:10.4f}   {before[0]:.4f}, {before[1]:.4f}', flush=True)
    return rows


def main():
    """Prints both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--model', default='', metavar='FOLDER', help='a BERT; by default one with random weights')
    parser.add_argument('--batches', type=int, nargs='+', default=[16, 64], help='batch sizes')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--steps', type=int, default=6, help='steps of each side per round')
    parser.add_argument('--curves', type=int, default=0, metavar='STEPS', help='also trains both for so many steps')
    parser.add_argument('--text', default='python_topics', choices=['python_topics', 'python_sources'],
                        help='text of the curves')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--json', help='a file for the figures')
    arguments = parser.parse_args()
    quiet()
    try:
        with_imports(SIDES[0])
    except (ImportError, RuntimeError) as e:
        print(f'transformers cannot be imported: {" ".join(str(e).split())[:100]}')
        return
    about = (f'Python {platform.python_version()}, torch {torch.__version__}, transformers {version("transformers")}, '
             f'{os.cpu_count()} CPUs, {torch.get_num_threads()} threads')
    print(f'{about}; {arguments.model or "random weights"}; {arguments.rounds} rounds of {arguments.steps} steps\n')
    found = {'about': about, 'speed': measure_speed(arguments) if arguments.rounds else []}
    if arguments.curves:
        found['curves'] = measure_curves(arguments)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1))


if __name__ == '__main__':
    with exit_on_error():
        main()
