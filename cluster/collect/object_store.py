"""What goes through Ray's object store, and what to say when it is full."""

from __future__ import annotations

from typing import Any

from cluster.collect.messages import SMALL_BYTES, Array, PackedWeights
from lab.errors import Failure


def sent(weights: Array) -> Any:
    """Packed weights as a request carries them: few as they are, many as a reference to the object store."""
    return weights.tobytes() if weights.nbytes <= SMALL_BYTES else put(weights)


def fetched(message: Any) -> PackedWeights:
    """The packed weights of a request that was `sent`."""
    import ray

    weights: PackedWeights = message if isinstance(message, bytes) else ray.get(message)
    return weights


def put(value: Any) -> Any:
    """`ray.put`: a reference to the value. Raises Failure when there is no room."""
    import ray

    try:
        return ray.put(value)
    except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as error:
        raise explained(error) from None


def explained(error: Exception) -> Exception:
    """The error itself, or what to say when rollouts do not fit the object store."""
    import ray

    if not isinstance(error, ray.exceptions.ObjectStoreFullError | ray.exceptions.OutOfDiskError):
        return error
    return Failure(
        "the cluster's object store is full, and so is the disk that it falls back to: free some, or make rollouts "
        "smaller (data.num_steps, data.num_envs, data.collector.max_staleness)."
    )
