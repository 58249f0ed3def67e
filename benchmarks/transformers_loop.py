"""
# A plain loop on `transformers`: the other side of `reviews.py`

    PYTHON benchmarks/transformers_loop.py features MODEL --text FILE … --out FOLDER
    PYTHON benchmarks/transformers_loop.py train MODEL --text TRAIN --evaluate NAME=FILE … --out FOLDER [--label rating]
        [--epochs 3] [--seed 1] [--each-epoch]

For a Python with torch and `transformers`, and without labml. Files are JSON lines with `text` and `label`.

* `features` writes the mean over the tokens of each text, without training: `FOLDER/0.npy` and so on, `[n, d_model]`.
* `train` fine-tunes all weights: mean pooling, dropout, a linear layer; batches of 32 in random order, padded to the
  longest text; AdamW with a peak of 5e-5, linear warm-up over a tenth of the steps and linear decay; gradients clipped
  at 1; fp32. `FOLDER/result.json` has the predictions for each file of `--evaluate` at the end (with
  `--each-epoch` they are made after the other epochs, too), the seconds of training alone, and those with predictions.
"""
import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, get_linear_schedule_with_warmup
from transformers.utils import logging

BATCH_SIZE = 32
LEARNING_RATE = 5e-5
WEIGHT_DECAY = 0.01
WARMUP = 0.1
MAX_LENGTH = 256


def read(path: str) -> list[dict[str, Any]]:
    """The rows of JSON lines."""
    return [json.loads(line) for line in Path(path).read_text(encoding='utf-8').split('\n') if line]


class Encoder(nn.Module):
    """Texts to the means over their tokens."""

    def __init__(self, folder: str):
        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32)

    def forward(self, texts: list[str]) -> Tensor:
        """`[batch_size, d_model]`."""
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors='pt')
        hidden = self.model(**batch).last_hidden_state
        mask = batch['attention_mask'][..., None]
        return (hidden * mask).sum(1) / mask.sum(1)


class Classifier(nn.Module):
    """A linear layer on that."""

    def __init__(self, encoder: Encoder, n_outputs: int):
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(encoder.model.config.hidden_size, n_outputs)

    def forward(self, texts: list[str]) -> Tensor:
        """`[batch_size, n_outputs]`."""
        return self.head(self.dropout(self.encoder(texts)))


def by_length(texts: list[str], batch_size: int = 64) -> Iterator[list[int]]:
    """Batches of indexes of texts that are about equally long."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    return (order[begin:begin + batch_size] for begin in range(0, len(order), batch_size))


@torch.no_grad()
def outputs(model: nn.Module, texts: list[str]) -> Tensor:
    """Of all texts, in their order."""
    model.eval()
    found = [(i, output) for batch in by_length(texts)
             for i, output in zip(batch, model([texts[i] for i in batch]), strict=True)]
    return torch.stack([output for _, output in sorted(found, key=lambda pair: pair[0])])


def features(arguments: argparse.Namespace):
    """Writes features."""
    encoder = Encoder(arguments.model)
    for i, path in enumerate(arguments.text):
        found = outputs(encoder, [row['text'] for row in read(path)])
        np.save(arguments.out / f'{i}.npy', found.numpy())


class Task:
    """Classes by the names of the labels, or numbers."""

    def __init__(self, rows: list[dict[str, Any]], label: str):
        self.label = label
        is_number = not isinstance(rows[0][label], str)
        self.names = None if is_number else sorted({row[label] for row in rows})

    @property
    def n_outputs(self) -> int:
        """Of the model."""
        return 1 if self.names is None else len(self.names)

    def loss(self, output: Tensor, rows: list[dict[str, Any]]) -> Tensor:
        """Mean squared error or cross entropy."""
        if self.names is None:
            return nn.functional.mse_loss(output[:, 0], torch.tensor([row[self.label] for row in rows]))
        return nn.functional.cross_entropy(output, torch.tensor([self.names.index(row[self.label]) for row in rows]))

    def predictions(self, output: Tensor) -> list[Any]:
        """Names or numbers."""
        return output[:, 0].tolist() if self.names is None else [self.names[i] for i in output.argmax(-1).tolist()]


def train(arguments: argparse.Namespace):
    """Fine-tunes, and writes predictions."""
    torch.manual_seed(arguments.seed)
    rows = [row for path in arguments.text for row in read(path)]
    held_out = {name: [row['text'] for row in read(path)] for name, path in arguments.evaluate}
    task = Task(rows, arguments.label)
    model = Classifier(Encoder(arguments.model), task.n_outputs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    n_steps = arguments.epochs * -(-len(rows) // BATCH_SIZE)
    schedule = get_linear_schedule_with_warmup(optimizer, round(WARMUP * n_steps), n_steps)
    training, began = 0., time.perf_counter()
    for epoch in range(1, arguments.epochs + 1):
        model.train()
        epoch_began = time.perf_counter()
        for chosen in torch.randperm(len(rows)).split(BATCH_SIZE):
            batch = [rows[i] for i in chosen.tolist()]
            task.loss(model([row['text'] for row in batch]), batch).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        training += time.perf_counter() - epoch_began
        if arguments.each_epoch or epoch == arguments.epochs:
            predicted = {name: task.predictions(outputs(model, texts)) for name, texts in held_out.items()}
    seconds = time.perf_counter() - began
    (arguments.out / 'result.json').write_text(json.dumps({'training': training, 'seconds': seconds,
                                                           'predictions': predicted}))


def main():
    """Runs one of both."""
    parser = argparse.ArgumentParser()
    parser.add_argument('what', choices=['features', 'train'])
    parser.add_argument('model', help='a folder of `save_pretrained`')
    parser.add_argument('--text', nargs='+', required=True, metavar='FILE')
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER')
    parser.add_argument('--evaluate', nargs='+', default=[], type=lambda pair: pair.split('=', 1), metavar='NAME=FILE')
    parser.add_argument('--label', default='label', help='the field of the label; numbers are for regression')
    parser.add_argument('--epochs', type=int, default=3)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--each-epoch', action='store_true', help='evaluates after each epoch, too')
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    arguments.out.mkdir(parents=True, exist_ok=True)
    {'features': features, 'train': train}[arguments.what](arguments)


if __name__ == '__main__':
    main()
