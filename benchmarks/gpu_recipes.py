"""`char_mlm.py` and `subword_mlm.py` as they are: seconds until the accuracy that they reach on 2 CPU cores."""
import time
from typing import Any

from gpu_part import Part
from labml.internal.tracker import tracker_singleton

from labml_mlm import MLMConfigs
from labml_mlm.inference.pretrained import silent

# By recipe: the accuracy at the end, of `char` the lowest of three seeds, and the text that it is of
TARGETS = {'char': (0.719, 'tiny_shakespeare'), 'subword': (0.445, 'python_sources')}
# On the CPU, to test the script
_TINY = {'max_steps': 4, 'd_model': 16, 'transformer.n_layers': 1, 'transformer.n_heads': 2, 'text': 'python_topics',
         'inner_iterations': 2, 'lr_warmup_steps': 1}
_TINY_BY_RECIPE = {'char': {}, 'subword': {'vocab_size': 300}}


def run(part: Part):
    """Figures are the validations of each: seconds of training and validation, accuracy and loss."""
    for recipe in TARGETS:
        part.measure(recipe, lambda recipe=recipe: _run(part, recipe), seconds=20., show=_shown)
    part.finish()


def _run(part: Part, recipe: str) -> dict[str, Any]:
    tracker_singleton().reset_writers()
    conf = MLMConfigs()
    conf._set_values({'recipe': recipe, 'device': part.device, 'n_prompts': 0, 'baselines': None,
                      **({**_TINY, **_TINY_BY_RECIPE[recipe]} if part.is_tiny else {})})
    with silent():
        conf.init()
        points, end_validation = [], conf.valid_metrics.on_epoch_end
        began = time.perf_counter()

        def on_epoch_end():
            end_validation()
            points.append({'seconds': time.perf_counter() - began, 'tokens': conf.progress.tokens,
                           'loss': conf.valid_metrics.loss, 'accuracy': conf.valid_metrics.accuracy})
            # What there is, should the time end
            part.add(f'{recipe}, validation {len(points)}', points[-1], _shown_point(points[-1]))

        conf.valid_metrics.on_epoch_end = on_epoch_end
        conf.run()
    target, text = TARGETS[recipe]
    is_same = not part.is_tiny and conf._get_computed('auto_text') == text
    reached = next((point['seconds'] for point in points if point['accuracy'] >= target), None) if is_same else None
    return {'target': target if is_same else None, 'seconds to target': reached, 'validations': points}


def _shown(figures: dict[str, Any]) -> str:
    if figures['target'] is None:
        return f'no target: the text is another one; {_shown_point(figures["validations"][-1])}'
    if figures['seconds to target'] is None:
        return f'{figures["target"]} is not reached; {_shown_point(figures["validations"][-1])}'
    return f'{figures["target"]} after {figures["seconds to target"]:.1f} s'


def _shown_point(point: dict[str, Any]) -> str:
    return f'{point["seconds"]:.1f} s, {point["tokens"]:,} tokens: loss {point["loss"]:.3f}, accuracy ' \
           f'{point["accuracy"]:.3f}'
