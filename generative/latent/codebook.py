"""A codebook that follows the vectors assigned to it (van den Oord, Vinyals and Kavukcuoglu 2017, appendix A.1).

Each code is the running mean of the vectors nearest to it. Codes start from k-means on the first minibatch, and those
that fall out of use start anew at vectors of the minibatch (Dhariwal et al. 2020).
B images, K codes, D numbers in a code, h x w grid of codes, N vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.ranks import ranks

_KMEANS_ROUNDS = 10


def straight_through(vectors: Tensor, quantized: Tensor) -> Tensor:
    """`quantized` in value, with the gradient of `vectors`."""
    return vectors + (quantized - vectors).detach()


class Codebook(nn.Module):
    """K vectors (K, D), running means of the vectors assigned to them; no gradient trains them."""

    vectors: Tensor
    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(self, num_codes: int, code_size: int, decay: float, restart: float) -> None:
        super().__init__()
        self.decay, self.restart = decay, restart
        self.register_buffer("vectors", torch.randn(num_codes, code_size))
        self.register_buffer("counts", torch.ones(num_codes))
        self.register_buffer("sums", self.vectors.clone())
        self.register_buffer("started", torch.tensor(False))

    def nearest(self, flat: Tensor) -> Tensor:
        """The code (N,) nearest to each vector (N, D)."""
        return torch.addmm(self.vectors.square().sum(1), flat, self.vectors.T, alpha=-2).argmin(1)

    def look_up(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w) as vectors (B, D, h, w)."""
        return F.embedding(codes, self.vectors).movedim(-1, 1)

    @torch.no_grad()
    def start(self, flat: Tensor) -> None:
        """Set the codes by k-means on vectors (N, D)."""
        self.vectors.copy_(k_means(_over_ranks(flat).to(self.vectors.dtype), len(self.vectors)))
        self._agree(self.vectors)
        self.sums.copy_(self.vectors)
        self.counts.fill_(1.0)
        self.started.fill_(True)

    @torch.no_grad()
    def follow(self, flat: Tensor, codes: Tensor) -> None:
        """Move each code's count and sum towards those of vectors (N, D) assigned to codes (N,); restart the unused."""
        flat, codes = _over_ranks(flat).to(self.sums.dtype), _over_ranks(codes)
        counts = torch.bincount(codes, minlength=len(self.counts)).to(flat.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, codes, flat)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        even = self.counts.sum() / len(self.counts)
        unused = (self.counts < self.restart * even)[:, None]
        fresh = flat[torch.randint(len(flat), (len(self.counts),), device=flat.device)]
        self.counts.copy_(torch.where(unused[:, 0], even, self.counts))
        self.sums.copy_(torch.where(unused, fresh * even, self.sums))
        self._agree(self.sums)
        self.vectors.copy_(self.sums / self.counts.clamp(min=1e-8)[:, None])

    @staticmethod
    def _agree(random: Tensor) -> None:
        """Give every rank the random tensor of rank 0."""
        if ranks.num_ranks() > 1:
            torch.distributed.broadcast(random, 0)


def k_means(points: Tensor, num: int) -> Tensor:
    """Centres (K, D) of points (N, D): spread-out first centres (k-means++, Arthur and Vassilvitskii 2007), Lloyd's
    rounds; a centre that loses all its points stays where it is."""
    centres = points[torch.randint(len(points), (1,), device=points.device)]
    distance = (points - centres).square().sum(1)
    for _ in range(num - 1):
        index = torch.multinomial(distance + 1e-12, 1)
        centres = torch.cat([centres, points[index]])
        distance = torch.minimum(distance, (points - points[index]).square().sum(1))
    for _ in range(_KMEANS_ROUNDS):
        nearest = torch.cdist(points, centres).argmin(1)
        counts = torch.bincount(nearest, minlength=num)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres


def flattened(vectors: Tensor) -> Tensor:
    """A grid of vectors (B, D, h, w) as rows (B * h * w, D)."""
    return vectors.movedim(1, -1).flatten(0, -2)


def _over_ranks(x: Tensor) -> Tensor:
    """The rows of `x` of all ranks."""
    if ranks.num_ranks() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(ranks.num_ranks())]
    torch.distributed.all_gather(parts, x.contiguous())
    return torch.cat(parts)
