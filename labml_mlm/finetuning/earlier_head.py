r"""
# The head of an earlier fine-tuning

A run that goes on from a fine-tuned one takes its head over if both predict the same labels, whatever their order: each
label has a row of the last layer. Numbers are predicted in standard units, and other texts have another mean $\mu$ and
standard deviation $\sigma$. With $y = \sigma z + \mu$, the last layer predicts the same numbers in the units of the new
ones, $\mu'$ and $\sigma'$, if

$$w' = \frac{\sigma}{\sigma'} w \qquad b' = \frac{\sigma b + \mu - \mu'}{\sigma'}$$
"""
import torch

from labml_mlm.finetuning.heads import Number, TaskTransformer
from labml_mlm.labelled.labels import LabelSet
from labml_mlm.published.start import TrainedHead


@torch.no_grad()
def take_over(model: TaskTransformer, head: TrainedHead, labels: LabelSet) -> str:
    """
    Gives a new model, which predicts `labels`, the head of a fine-tuned one, if it has the same labels and parts.
    Returns what was done, for people.
    """
    if head.kind != labels.kind or set(head.names) != set(labels.names):
        return f'Its head is for {_about(head)}: a new one is trained'
    weights = {name.removeprefix('generator.'): weight for name, weight in head.state.items()
               if name.startswith('generator.')}
    if weights.keys() != model.generator.state_dict().keys():
        return 'Its head is for another pooling: a new one is trained'
    order = [head.names.index(name) for name in labels.names] if labels.names else [0]
    weight, bias = weights['output.weight'][order], weights['output.bias'][order]
    criterion = model.criterion
    if isinstance(criterion, Number):
        mean, std = head.state['criterion.mean'], head.state['criterion.std']
        weight, bias = weight * std / criterion.std, (bias * std + mean - criterion.mean) / criterion.std
    model.generator.load_state_dict({**weights, 'output.weight': weight, 'output.bias': bias})
    return f'Its head, for {_about(head)}, is trained further'


def _about(head: TrainedHead) -> str:
    if not head.names:
        return 'numbers'
    kind = {'multiple': ' (any of them)', 'tags': ' (of words)'}.get(head.kind, '')
    return LabelSet(head.kind, head.names).some() + kind
