"""Updates as CUDA graphs: a tape stands in for a graph here, and a GPU shows the real ones where there is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lab.config.overrides import resolve
from lab.engine.cuda_graphs import Captured
from lab.engine.loss import Metrics
from lab.engine.optimizers import OptimizerConfig
from lab.engine.updater import Updater
from lab.errors import UserError
from lab.training.train import train
from tests.lab.engine.tape import Recorder
from tests.lab.engine.test_tracing import NETWORKS, Rows, losses

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Every device is one that records."""
    made = Recorder()
    monkeypatch.setattr("lab.engine.cuda_graphs.cuda_graph", made)
    monkeypatch.setattr("lab.engine.cuda_graphs.warm_up", lambda function, *inputs: list(function(*inputs)))
    monkeypatch.setattr("lab.engine.tracing.on_gpu", lambda tensors: True)
    return made


def updates(make: Any, kind: str, engine: str, device: str = "cpu") -> tuple[list[Metrics], dict[str, Tensor]]:
    """The metrics of twenty updates on batches of two sizes, and the state after them."""
    torch.manual_seed(0)
    net = make().to(device)
    updater = Updater(net, losses(net, kind), OptimizerConfig(lr=1e-2, max_grad_norm=0.5), engine)
    generator, rows = torch.Generator().manual_seed(1), []
    for step in range(20):
        num = 16 if step % 3 else 24
        x, action = torch.randn(num, 6, generator=generator), torch.randint(3, (num,), generator=generator)
        target = torch.randn(num, generator=generator)
        metrics, extras = updater.step(Rows(*(t.to(device) for t in (x, action, target))))
        rows.append(metrics | extras)
    return rows, net.state_dict()


MADE = {**NETWORKS, "dropout": lambda: nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 3))}


@pytest.mark.parametrize("kind", ["huber", "cross_entropy", "clipped"])
@pytest.mark.parametrize("network", MADE)
def test_recorded_updates_are_eager_ones_to_the_bit(recorder: Recorder, network: str, kind: str) -> None:
    (recorded, weights), (expected, wanted) = (updates(MADE[network], kind, engine) for engine in ("traced", "eager"))
    assert recorder.num_recordings == 2
    assert recorder.num_replays == 20 - 2 * 3
    for row, like in zip(recorded, expected, strict=True):  # none was overwritten by the updates after it
        assert row.keys() == like.keys()
        assert all(torch.equal(row[name], like[name]) for name in row)
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["module.double=false", "module.target_tau=0.05"],
        ["data.replay.priority={alpha: 0.6}", "data.replay.n_step=3"],
        ["module.dueling=true", "module.noisy_sigma=0.5", "module.returns={kind: categorical, v_max: 100}"],
        ["module.returns={kind: quantile}", "module.optimizer.max_grad_norm=null", "module.optimizer.name=rmsprop"],
    ],
    ids=["double", "plain", "prioritized", "c51-noisy-dueling", "quantiles"],
)
def test_runs_of_recorded_updates_are_eager_ones_to_the_bit(
    recorder: Recorder, tmp_path: Any, overrides: list[str]
) -> None:
    small = [
        "trainer.budget=1500",
        "trainer.eval_period=1500",
        "data.learning_starts=500",
        "module.backbone.hidden=[16]",
        "module.batch_size=32",
    ]
    plain = ["tracking.mode=disabled", "trainer.device=cpu", "trainer.num_threads=1"]
    weights = []
    for engine in ("traced", "eager"):
        experiment = resolve("dqn/cartpole", [*small, *plain, *overrides, f"trainer.engine={engine}"])
        run = train(experiment, run_dir=tmp_path / engine).run
        weights.append(torch.load(run.checkpoint("last"), weights_only=True)["state_dict"])
    assert recorder.num_replays > 100
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_what_cannot_be_recorded_is_a_sentence(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(work: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr("lab.engine.cuda_graphs.cuda_graph", refuse)
    with pytest.raises(UserError, match=r"cannot record .*\(operation not permitted .*capturing\); .*engine=eager"):
        updates(NETWORKS["tanh"], "huber", "traced")


@needs_gpu
@pytest.mark.parametrize("network", NETWORKS)
def test_cuda_graphs_update_as_eager_autograd_does(network: str) -> None:
    (recorded, weights), (expected, wanted) = (
        updates(NETWORKS[network], "huber", engine, "cuda") for engine in ("traced", "eager")
    )
    torch.testing.assert_close(recorded, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(weights, wanted, rtol=1e-3, atol=1e-4)


@needs_gpu
def test_a_cuda_graph_takes_new_inputs_and_keeps_old_outputs() -> None:
    double = Captured(lambda x: [2 * x])
    outputs = [double([torch.full((3,), float(i), device="cuda")])[0] for i in range(6)]
    assert [output.tolist() for output in outputs] == [[2.0 * i] * 3 for i in range(6)]
