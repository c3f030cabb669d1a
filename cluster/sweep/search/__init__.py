"""Which runs a sweep makes, and which it stops early.

Both depend on the sweep's entries and their runs' files alone, so that a sweep that was cut off goes on as if it had
not been.

grid     every combination of recipes, values and seeds
random   `num_samples` draws from the ranges for each of them (Bergstra and Bengio, 2012)
asha     the same, and at each rung (budget / 4, / 16, ...) a run goes on only if it is among the best quarter of those
         that have reached it so far (asynchronous successive halving: Li et al., 2020)
pbt      the same, and the worst quarter take over from the best one as they train (pbt.py)
optuna   each point is chosen from the results of the earlier ones (optuna.py)
"""

from __future__ import annotations

from cluster.sweep.search.asha import Asha
from cluster.sweep.search.base import Search
from cluster.sweep.search.optuna import Optuna
from cluster.sweep.search.pbt import PopulationBased
from cluster.sweep.space import Space
from cluster.sweep.sweep import Sweep

_SEARCHES = {"grid": Search, "random": Search, "asha": Asha, "pbt": PopulationBased, "optuna": Optuna}


def make_search(sweep: Sweep, space: Space) -> Search:
    """The search that a sweep's settings name."""
    return _SEARCHES[sweep.settings.search](sweep, space)
