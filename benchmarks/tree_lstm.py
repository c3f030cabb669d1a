"""Training of a Tree-LSTM height by height, all trees of a minibatch at once, against one that recurs node by node.

    python benchmarks/tree_lstm.py [--quick]

Both are trained by Adam on the labels of all nodes of minibatches of 64 random trees over 5 to 33 words, as many as in
the Stanford Sentiment Treebank, by one thread, in the sizes of two recipes: `expressions` (32 numbers a word, 100
features) and `treebank` (300 and 150, where matrix products, which both forms need, are more than half of the lab's
time). The recursive form is the equations as they stand: a product for each node. What is compared are trees a second
of one update each, in turn, on the same minibatches.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence

import torch
from form import Benchmark, Pairs, measure_pairs
from torch import Tensor, nn
from torch.nn import functional as F

from lab.backbones import BackboneConfig
from lab.backbones.trees import TreeLSTM
from lab.data.language.tree_files import Tree, TreeCorpus
from lab.data.language.trees import TreeData, TreeModule
from lab.data.resident import Batch
from lab.data.targets import NO_TAG
from lab.engine.optimizers import OptimizerConfig
from lab.supervised.embedding import EmbeddingConfig
from lab.supervised.supervised import Supervised, SupervisedConfig

BATCH, WORDS, CLASSES = 64, 10_000, 5
SIZES = {"expressions": (32, 100), "treebank": (300, 150)}
"""numbers a word, and features"""


def random_tree(rng: random.Random) -> Tree:
    """Over 5 to 33 words, cut at random places, with a label at each node."""
    tree = Tree([], [], [], [], [], "")

    def add(num: int) -> int:
        label = str(rng.randrange(CLASSES))
        if num == 1:
            return tree.add(label, f"w{rng.randrange(WORDS)}")
        cut = rng.randint(1, num - 1)
        left, right = add(cut), add(num - cut)
        return tree.add(label, "", left, right)

    add(rng.randint(5, 33))
    return tree


class Recursive(nn.Module):
    """The same network, node by node, of the same parameters."""

    def __init__(self, learner: Supervised) -> None:
        super().__init__()
        self.words, self.head = learner.net.embedding.words, learner.net.task.head
        self.core: TreeLSTM = learner.net.features.backbone.net
        self.mean_labelled: float = learner.net.task.mean_labelled
        self.optimizer = torch.optim.Adam(learner.net.parameters(), lr=1e-3, fused=True)

    def node(
        self, rows: list[list[int]], vectors: Sequence[Tensor], number: int, features: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """h and c of a node, whose h, and those of all below it, are appended to `features` in post-order."""
        _, left, right, height = rows[number]
        if height == 0:
            i, o, u = self.core.leaf(vectors[number]).chunk(3)
            c = i.sigmoid() * u.tanh()
        else:
            h_left, c_left = self.node(rows, vectors, left, features)
            h_right, c_right = self.node(rows, vectors, right, features)
            i, o, f_left, f_right, u = self.core.node(torch.cat([h_left, h_right])).chunk(5)
            c = i.sigmoid() * u.tanh() + f_left.sigmoid() * c_left + f_right.sigmoid() * c_right
        h = o.sigmoid() * c.tanh()
        features.append(h)
        return h, c

    def step(self, batch: Batch) -> float:
        """One update; returns the loss."""
        losses, vectors = [], self.words(batch.x[..., 0])
        for x, y, each in zip(batch.x, batch.y, vectors.unbind(), strict=True):
            num = int((y != NO_TAG).sum())
            features: list[Tensor] = []
            self.node(x.tolist(), each.unbind(), num - 1, features)
            losses.append(F.cross_entropy(self.head(torch.stack(features)), y[:num], reduction="sum"))
        loss = torch.stack(losses).sum() / (len(batch.y) * self.mean_labelled)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def learner_of(data: TreeModule, size: int, hidden: int) -> Supervised:
    """A network without dropout."""
    torch.manual_seed(0)
    return SupervisedConfig(
        backbone=BackboneConfig("tree_lstm", hidden=hidden),
        embedding=EmbeddingConfig(size=size),
        optimizer=OptimizerConfig(lr=1e-3),
    ).build(data.spec)


def per_second(step: Callable[[Batch], object], batch: Batch) -> float:
    """Trees a second of one update."""
    start = time.perf_counter()
    step(batch)
    return len(batch.y) / (time.perf_counter() - start)


def pairs_of(data: TreeModule, size: int, hidden: int, repeats: int) -> tuple[Pairs, tuple[float, float]]:
    """Trees a second of both forms, and the first loss of each."""
    batches = list(data.next_chunk())
    lab, peer = learner_of(data, size, hidden), Recursive(learner_of(data, size, hidden))
    losses = float(lab.updater.step(batches[0])[0]["cross_entropy"]), peer.step(batches[0])
    ours, theirs = itertools.cycle(batches), itertools.cycle(batches)
    pairs = measure_pairs(
        lambda: per_second(lab.updater.step, next(ours)), lambda: per_second(peer.step, next(theirs)), repeats
    )
    return pairs, losses


def main() -> None:
    bench = Benchmark("tree_lstm", __doc__)
    torch.set_num_threads(1)
    rng = random.Random(0)
    splits = {"train": 16 * BATCH, "val": 99, "test": 99}
    corpus = TreeCorpus({split: [random_tree(rng) for _ in range(num)] for split, num in splits.items()})
    figures: dict[str, float | None] = {}
    details: dict[str, object] = {"threads": 1}
    for name, sizes in SIZES.items():
        data = TreeModule(TreeData(batch_size=BATCH, batches_per_step=16), corpus, 0)
        pairs, losses = pairs_of(data, *sizes, repeats=5 if bench.quick else 16)
        figures[f"{name}_trees_per_second"] = pairs.lab
        figures[f"{name}_recursive_trees_per_second"] = pairs.peer
        figures[f"{name}_vs_recursive_ratio"] = pairs.ratio
        details |= {f"{name}_ratios": pairs.ratios, f"{name}_first_losses": losses}
    bench.finish(figures, {f"{name}_vs_recursive_ratio": 20.0 for name in SIZES}, details)


if __name__ == "__main__":
    main()
