"""Networks over trees: what they learn, that they resume exactly, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lab.backbones import BackboneConfig
from lab.backbones.features import Features
from lab.data.language.trees import TreeData
from lab.diagnostics.examine import examine
from lab.engine.optimizers import OptimizerConfig
from lab.errors import UserError
from lab.experiment import Experiment, TrackingConfig, TrainerConfig
from lab.supervised.embedding import EmbeddingConfig
from lab.supervised.ensemble import measure_ensemble
from lab.supervised.recipes import trees
from lab.supervised.supervised import Supervised, SupervisedConfig
from lab.supervised.tasks import ClassificationConfig, TreeTaggingConfig
from lab.supervised.tree_embedding import TreeEmbedding
from lab.training.train import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trees over two to four bits, each node the parity of what is below it."""
    folder = tmp_path_factory.mktemp("bits")

    def tree(bits: str) -> tuple[str, int]:
        if len(bits) == 1:
            return f"({bits} {bits})", int(bits)
        (left, a), (right, b) = tree(bits[: (len(bits) + 1) // 2]), tree(bits[(len(bits) + 1) // 2 :])
        return f"({a ^ b} {left} {right})", a ^ b

    trees = [tree(format(number, f"0{length}b"))[0] for length in (2, 3, 4) for number in range(2**length)]
    for split in ("train", "val", "test"):
        (folder / f"{split}.txt").write_text("\n".join(trees) + "\n")
    return folder


def experiment(folder: Path, budget: int = 4_000, *, flat: bool = False, seed: int = 0) -> Experiment:
    return Experiment(
        name="bits",
        data=TreeData(name=str(folder), flat=flat, batch_size=7, batches_per_step=4),
        module=SupervisedConfig(
            backbone=BackboneConfig("lstm" if flat else "tree_lstm", hidden=16),
            task=ClassificationConfig() if flat else TreeTaggingConfig(dropout=0.1),
            embedding=EmbeddingConfig(size=8),
            optimizer=OptimizerConfig(lr=2e-2),
        ),
        trainer=TrainerConfig(budget=budget, eval_period=budget, num_threads=1, device="cpu", diagnostics=False),
        tracking=TrackingConfig(mode="disabled"),
        seed=seed,
    )


@pytest.mark.slow
@pytest.mark.parametrize("flat", [False, True])
def test_it_learns_and_resumes_exactly(folder: Path, tmp_path: Path, flat: bool) -> None:
    whole = train(experiment(folder, flat=flat), run_dir=tmp_path / "whole")
    if not flat:
        assert whole.metrics["eval/accuracy"] == whole.metrics["eval/node_accuracy"] == 1
    part = train(experiment(folder, 2_000, flat=flat), run_dir=tmp_path / "part")
    longer = train(experiment(folder, flat=flat), resume=part.run)
    states = [torch.load(run.last, weights_only=True)["state_dict"] for run in (whole.run, longer.run)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.slow
def test_the_mean_of_several_runs_is_judged(folder: Path, tmp_path: Path) -> None:
    runs = [train(experiment(folder, 400, seed=seed), run_dir=tmp_path / str(seed)).run.path for seed in range(2)]
    ensemble = measure_ensemble(runs, split="val")
    assert ensemble.together.keys() == next(iter(ensemble.members.values())).keys()
    assert 0 < ensemble.together["eval/node_accuracy"] <= 1


@pytest.mark.parametrize("name", ["sst", "sst_2", "expressions"])
def test_a_recipes_twin_reads_the_same_trees_with_as_many_parameters(name: str) -> None:
    tree, flat = getattr(trees, name)(), getattr(trees, f"{name}_flat")()
    assert flat.data == tree.data.model_copy(update={"flat": True})
    assert flat.module.embedding == tree.module.embedding
    assert flat.trainer == tree.trainer
    shape = (3, tree.module.embedding.size)
    nums = [sum(p.numel() for p in Features(each.module.backbone, shape).parameters()) for each in (tree, flat)]
    assert nums[0] == pytest.approx(nums[1], rel=0.02)


def test_a_split_is_judged_node_by_node(folder: Path) -> None:
    data = experiment(folder).data.build(0)
    learner = experiment(folder).module.build(data.spec).eval()
    assert isinstance(learner, Supervised)
    judged = learner.judge(data, "val")
    (batch,) = data.batches("val")
    alone = [learner.net(row[None, : int(((row[:, 0] + row[:, 3]) != 0).sum())]).values[0] for row in batch.x]
    right = [p.argmax(1) == y[: len(p)] for p, y in zip(alone, batch.y, strict=True)]
    assert judged.scores["accuracy"] == pytest.approx(sum(bool(each[-1]) for each in right) / len(right))
    assert judged.scores["node_accuracy"] == pytest.approx(float(torch.cat(right).float().mean()))
    answers = learner.answers(batch.x[:3])
    assert [answer.label for answer in answers] == [str(int(p[-1].argmax())) for p in alone[:3]]


def test_unknown_words_and_dropout_leave_inner_nodes_alone(folder: Path) -> None:
    torch.manual_seed(0)
    data = experiment(folder).data.build(0)
    config = EmbeddingConfig(size=16, dropout=0.2, unknown=0.5)
    embedding = TreeEmbedding(config, data.spec.inputs, data.spec.vocabulary)
    (batch,) = data.batches("val")
    vectors = embedding(batch.x)
    assert bool((vectors[batch.x[..., 0] == 0] == 0).all())
    assert bool((vectors[batch.x[..., 0] != 0] != 0).any(1).all())
    lengths, tree = embedding.structure(batch.x)
    assert lengths.tolist() == (batch.y != -1).sum(1).tolist()
    assert torch.equal(tree, batch.x[..., 1:])


def test_what_does_not_read_trees_is_refused(folder: Path) -> None:
    spec = experiment(folder).data.build(0).spec
    with pytest.raises(UserError, match=r"'gru' reads no trees; with data\.flat=true .* Valid choices: tree_lstm"):
        SupervisedConfig(backbone=BackboneConfig("gru")).build(spec)
    learner = SupervisedConfig(backbone=BackboneConfig("tree_lstm")).build(spec)
    with pytest.raises(UserError, match="Valid choices: auto, eager"):
        learner.set_engine("traced")
    with pytest.raises(UserError, match="lab export writes no network over trees"):
        learner.exportable(experiment(folder).data.build(0))


@pytest.mark.slow
@pytest.mark.parametrize("flat", [False, True])
def test_checks_find_nothing_wrong(folder: Path, flat: bool) -> None:
    findings = examine(experiment(folder, flat=flat))
    assert [finding for finding in findings if finding.verdict == "wrong"] == []
    assert {finding.name for finding in findings if finding.verdict == "ok"} > {"one softmax", "initial loss"}
