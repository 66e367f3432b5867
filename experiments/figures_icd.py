"""What evaluate reports of an ICD run besides what it reports of every run: the size and the cost of the KL term."""
import json
import math
import statistics

import jax
from ml_collections import ConfigDict

from experiments.timing import timed_steps


def kl_gradient_ratio(workdir, config, parts, state):
    """Median over the run of |gradient of the KL term| / |gradient of the contrast|, from metrics.jsonl."""
    del parts, state
    if not config.loss.kl_weight:
        return {'kl_gradient_ratio': None}, []
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    pairs = [(row.get('grad_norm/kl'), row.get('grad_norm/contrast')) for row in rows]
    pairs = [pair for pair in pairs if all(isinstance(norm, float) and norm > 0 for norm in pair)]   # a norm that is not finite is a string
    later = pairs[len(pairs) // 5:]   # after start-up
    if not later:
        return {'kl_gradient_ratio': None}, ['KL gradient over contrast gradient: none was logged (--config.log_every is beyond the run)']
    ratio = statistics.median(kl / contrast for kl, contrast in later)
    sizes = [statistics.median(values) for values in zip(*later)]
    return {'kl_gradient_ratio': ratio}, [
        f'KL gradient over contrast gradient  {ratio:.3f}   medians {sizes[0]:.2e} and {sizes[1]:.2e} of {len(later)} logged steps, the '
        'first fifth left out']


def kl_cost(workdir, config, parts, state, *, build, rounds=7):
    """Per cent by which the KL term makes a training step longer: this run's step against the same without it, in turns."""
    del workdir
    if not config.loss.kl_weight:
        return {'kl_cost_percent': None}, []
    without = ConfigDict(config.to_dict())
    without.loss.kl_weight = 0.0
    local, common = jax.local_devices(), math.gcd(config.batch_size, config.shards)
    devices = local[:max(n for n in range(1, len(local) + 1) if common % n == 0)]
    seconds = timed_steps([parts, build(without)], [state, state], rounds=rounds, devices=devices)
    ratio = statistics.median(a / b for a, b in zip(*seconds))
    return {'kl_cost_percent': 100 * (ratio - 1)}, [
        f'cost of the KL term  {100 * (ratio - 1):.1f} % of a step   median of {rounds} pairs of steps with and without it, '
        f'{statistics.median(seconds[0]):.3f} s and {statistics.median(seconds[1]):.3f} s, {len(devices)} {devices[0].device_kind} '
        'device(s)']
