"""Seeds for everything that draws random numbers, derived from the experiment's one seed.

Neighbouring experiment seeds must share no stream: environment 3 of seed 0 and environment 2 of seed 1 would be the
same if seeds were simply added.
"""

from __future__ import annotations

import zlib

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed in [0, 2^31) for the generator called `names` (a role, a rank, an index) of an experiment."""
    spawn_key = tuple(name if isinstance(name, int) else zlib.crc32(name.encode()) for name in names)
    return int(np.random.SeedSequence(seed, spawn_key=spawn_key).generate_state(1)[0] >> 1)
