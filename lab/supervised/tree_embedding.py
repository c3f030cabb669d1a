"""Vectors of the words at the leaves of trees. B trees, N nodes, D numbers that stand for a word."""

from __future__ import annotations

from torch import Tensor

from lab.data.language.vocabulary import Vocabulary
from lab.data.spec import TensorSpec, TreeSpec
from lab.supervised.embedding import Embedding, EmbeddingConfig

_WORD, _HEIGHT = 0, 3
"""columns of a node, between which its children stand"""


class TreeEmbedding(Embedding):
    """Nodes (B, N, 4), as `data.kind=trees` gives them, to vectors (B, N, D), 0 of nodes that are no leaves."""

    def __init__(self, config: EmbeddingConfig, inputs: TreeSpec, vocabulary: Vocabulary) -> None:
        super().__init__(config, TensorSpec(inputs.shape[:1], inputs.dtype, inputs.low, inputs.high), vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., _WORD])

    def structure(self, x: Tensor) -> tuple[Tensor, ...]:
        """How many nodes a tree has (B,), and the children and the height of each (B, N, 3)."""
        return ((x[..., _WORD] + x[..., _HEIGHT]) != 0).sum(1).clamp(min=1), x[..., 1:]
