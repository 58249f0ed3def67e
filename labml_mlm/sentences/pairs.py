"""
# Pairs of spans as windows

`SentencePairs` gives windows `[CLS] A [SEP] B [SEP]` to the loaders, as `Windows` gives parts of a text. Which spans A
and B are is planned for an epoch at once (`plan`), from the lengths of sentences alone; the tokens stay where they are.
"""
import functools

import numpy as np
import torch

from labml_mlm.common.errors import UserError
from labml_mlm.data.batch import Batch, PairTemplate
from labml_mlm.sentences.plan import Plan, Sentences, cut_chunks, make_plan

KINDS = 'nsp', 'sop'


class SentencePairs:
    """
    ## Windows of two spans of sentences each

    * `tokens` is the text, `[n]`, of any integer type; it may be mapped from a file
    * `ends` are the ends of its sentences, ascending; an end that is there twice is that of a document
    * `kind` is `nsp`: is the second span the next one, or one of another document? Or `sop`: in which order are they?
    * `template` has the special tokens around and between the spans
    * `about` names the text in messages

    The offset of `WindowSource` is the seed of an epoch, whose chunks, spans and labels are others each time. So is
    their number, by chance; the number of windows is that of the seed 0, and some chunks are left out at random, or
    come twice.

    A sentence that is longer than half of a sequence is taken as several, and the only one of its document if it is
    longer than a sequence. Takes 8 bytes of memory per sentence, and 40
    per window. Raises `UserError` if there is no room for two spans, if no document has two sentences, and with `nsp`
    if only one has.
    """
    n_offsets = 2 ** 63 - 1

    def __init__(self, tokens: np.ndarray, ends: np.ndarray, *, kind: str, seq_len: int, padding_token: int,
                 template: PairTemplate, about: str = 'text'):
        # Tokens of the text in a window
        self.length = seq_len - template.length
        if self.length < 2:
            raise UserError(f'seq_len={seq_len} leaves no room for two spans of sentences: the special tokens around '
                            f'them take {template.length}. Use a longer seq_len')
        self.tokens = tokens
        self.kind = kind
        self.seq_len = seq_len
        self.padding_token = padding_token
        self.template = template
        self.sentences = find_sentences(np.asarray(ends), length=self.length)
        sizes = self.sentences.lasts - self.sentences.firsts
        # Documents of one sentence, which are in no pair
        self.n_left_out = int((sizes == 1).sum())
        self.n_documents = len(sizes)
        n_paired = self.n_documents - self.n_left_out
        if not n_paired and self.n_documents:
            raise UserError(f'sentence_pairs={kind}: no document of the {about} has two sentences. sentence_rule says '
                            'what a sentence is, and text_unit what a document is')
        if kind == 'nsp' and n_paired == 1:
            raise UserError(f'sentence_pairs=nsp needs sentences of another document, and the {about} has only one '
                            'document of two or more. text_unit=paragraph makes more of them, and sentence_pairs=sop '
                            'needs one only')
        self._n_windows = len(cut_chunks(self.sentences, length=self.length, rng=np.random.default_rng(0)).first)
        self._plan = functools.lru_cache(maxsize=1)(self._make_plan)

    def __len__(self) -> int:
        return self._n_windows

    def plan(self, offset: int = 0) -> Plan:
        """The pairs of an epoch, `[len(self)]` each."""
        return self._plan(offset)

    def _make_plan(self, offset: int) -> Plan:
        plan = make_plan(self.sentences, self.kind, length=self.length, seed=offset)
        n = len(plan.labels)
        if n == self._n_windows:
            return plan
        # From anywhere: always to leave out the end of the text would be unfair
        first = np.random.default_rng([offset, 1]).integers(n)
        numbers = (first + np.arange(self._n_windows)) % n
        return Plan(*(part[numbers] for part in plan))

    def batch(self, numbers: np.ndarray, offset: int = 0) -> Batch:
        """Windows by their numbers, `[batch_size]`, of the epoch whose seed is `offset`."""
        begins, lengths, second_begins, second_lengths, labels = (part[numbers] for part in self.plan(offset))
        before, between, after, second_segment = self.template
        # `[seq_len, 1]`, and in the following `[batch_size]`
        rows = np.arange(self.seq_len)[:, None]
        first_end = len(before) + lengths
        second = first_end + len(between)
        second_end = second + second_lengths
        end = second_end + len(after)
        is_first = (rows >= len(before)) & (rows < first_end)
        is_second = (rows >= second) & (rows < second_end)
        x = np.full(is_first.shape, self.padding_token, np.int64)
        index = np.where(is_first, begins + rows - len(before), second_begins + rows - second)
        is_text = is_first | is_second
        x[is_text] = self.tokens[index[is_text]]
        for at, ids in ((np.zeros_like(end), before), (first_end, between), (second_end, after)):
            for i, token in enumerate(ids):
                x[at + i, np.arange(len(numbers))] = token
        segment_ids = ((rows >= second) & (rows < end)) * second_segment
        return Batch(torch.from_numpy(x), torch.from_numpy(rows >= end), segment_ids=torch.from_numpy(segment_ids),
                     n_special_tokens=self.template.length * len(numbers), pair_labels=torch.from_numpy(labels[None]))

    def lengths(self, numbers: np.ndarray, offset: int = 0) -> np.ndarray:
        """Number of tokens of both spans of windows; `[batch_size]`."""
        plan = self.plan(offset)
        return plan.first_lengths[numbers] + plan.second_lengths[numbers]

    def n_special_tokens(self, numbers: np.ndarray, offset: int = 0) -> int:
        """Number of special tokens of these windows."""
        return len(numbers) * self.template.length


def find_sentences(ends: np.ndarray, *, length: int) -> Sentences:
    """Sentences, long ones in equal parts, from `ends` as in `SentencePairs`; `length` tokens fit into a sequence."""
    lengths = np.diff(ends, prepend=0)
    is_end = np.concatenate([[True], lengths == 0, [True]])
    is_alone = is_end[:-2] & is_end[2:] & (lengths <= length)
    # How many sentences each of them makes; the empty ones after documents none
    n_parts = np.where(is_alone, np.minimum(lengths, 1), -(-lengths // (length // 2)))
    after = n_parts.cumsum()
    # The sentences before the end of each document; the last one may have no empty sentence
    lasts = np.unique(np.append(after[lengths == 0], after[-1:]))
    lasts = lasts[lasts > 0]
    part = np.arange(n_parts.sum()) - np.repeat(after - n_parts, n_parts) + 1
    of_parts = np.repeat(ends - lengths, n_parts) + part * np.repeat(lengths, n_parts) // np.repeat(n_parts, n_parts)
    return Sentences(of_parts, np.concatenate([[0], lasts[:-1]]).astype(np.int64), lasts)
