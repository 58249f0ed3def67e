"""Where the time of a step of BERT-base goes: the ten longest kernels, and how long the GPU waits for the host."""
import collections
from typing import Any

from gpu_configs import build, random_batches, train_step
from gpu_part import Part
from step import synchronize
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

N_STEPS = 3
_BATCH = 64
_LONGEST = 10


def run(part: Part):
    """Figures are a table of kernels (on the CPU, of operations), and the gaps between them."""
    is_cuda = part.device == 'cuda'
    conf = build('base', device=part.device, **({'batch_size': _BATCH} if is_cuda else {}))
    step, batches = train_step(conf), random_batches(conf, N_STEPS)
    for batch in batches:
        step(batch)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    synchronize(conf.device)
    with profile(activities=activities, acc_events=True) as profiled:
        for batch in batches:
            step(batch)
        synchronize(conf.device)
    wanted = DeviceType.CUDA if is_cuda else DeviceType.CPU
    events = [event for event in profiled.events() if event.device_type == wanted and not event.is_user_annotation]
    if not events:
        raise RuntimeError('the profiler has seen no kernels')
    spans = sorted((event.time_range.start, event.time_range.end) for event in events)
    total, busy, gaps = _coverage(spans)
    part.add('batch', conf.batch_size)
    part.add('steps', {'ms/step': total / 1e3 / N_STEPS, 'busy': busy / total, 'kernels/step': len(events) / N_STEPS},
             f'{total / 1e3 / N_STEPS:.1f} ms per step, busy for {busy / total:.1%} of it, '
             f'{len(events) / N_STEPS:,.0f} {"kernels" if is_cuda else "operations"} per step')
    part.add('gaps', {'ms/step': (total - busy) / 1e3 / N_STEPS, 'longest, ms': [gap / 1e3 for gap in gaps[:5]]},
             f'{(total - busy) / 1e3 / N_STEPS:.2f} ms per step in which it waits for the host, the longest of '
             f'{gaps[0] / 1e3 if gaps else 0:.2f} ms')
    part.add('longest', _table(events, is_cuda, busy), 'kernels' if is_cuda else 'operations, without those inside')
    for row in _table(events, is_cuda, busy):
        print(f'    {row["share"]:6.1%}  {row["ms/step"]:8.3f} ms  {row["calls/step"]:6.0f} ×  {row["name"][:80]}')


def _table(events: list[Any], is_cuda: bool, busy: float) -> list[dict[str, Any]]:
    """The longest ones by name, with their share of the time in which something ran."""
    times, calls = collections.Counter(), collections.Counter()
    for event in events:
        times[event.name] += event.time_range.elapsed_us() if is_cuda else event.self_cpu_time_total
        calls[event.name] += 1
    return [{'name': name, 'share': time / busy, 'ms/step': time / 1e3 / N_STEPS, 'calls/step': calls[name] / N_STEPS}
            for name, time in times.most_common(_LONGEST)]


def _coverage(spans: list[tuple[float, float]]) -> tuple[float, float, list[float]]:
    """From the first to the last, how much of it is covered, and the gaps, the longest first; in microseconds."""
    busy, gaps, end = 0., [], spans[0][0]
    for begin, until in spans:
        if begin > end:
            gaps.append(begin - end)
        busy += max(0., until - max(begin, end))
        end = max(end, until)
    return end - spans[0][0], busy, sorted(gaps, reverse=True)
