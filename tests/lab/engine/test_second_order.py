"""Newton's steps and L-BFGS against closed forms and torch, and where they are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lab.config.overrides import resolve
from lab.data.resident import Batch
from lab.engine.loss import Loss
from lab.engine.optimizers import OptimizerConfig
from lab.engine.second_order import gradient_and_hessian
from lab.engine.updater import Updater
from lab.errors import UserError
from lab.ranks import ranks
from tests.lab.engine.small_net import assert_same_weights, minibatches, run, small_updater, squared_error


def linear_regression(weight_decay: float) -> tuple[nn.Linear, Batch, torch.Tensor]:
    """A model, rows, and the closed form's weights with the bias: ridge regression of mean squared errors."""
    torch.manual_seed(0)
    net = nn.Linear(4, 1).double()
    x, y = torch.randn(30, 4).double(), torch.randn(30, 1).double()
    design = torch.cat([x, torch.ones(30, 1)], 1)
    gram = 2 / 30 * design.T @ design + weight_decay * torch.eye(5)
    return net, Batch(x, y), torch.linalg.solve(gram, 2 / 30 * design.T @ y).flatten()


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_newton_solves_least_squares_in_one_step(weight_decay: float) -> None:
    net, batch, expected = linear_regression(weight_decay)
    before = float(squared_error(net, batch))
    metrics, _ = small_updater(OptimizerConfig(name="newton", damping=0.0, weight_decay=weight_decay), net=net).step(
        batch
    )
    torch.testing.assert_close(nn.utils.parameters_to_vector(net.parameters()), expected)
    assert float(metrics["loss"]) == pytest.approx(before), "the loss that is told is without weight_decay"


def test_much_damping_makes_short_gradient_steps() -> None:
    newton = small_updater(OptimizerConfig(name="newton", damping=1e6))
    sgd = small_updater(OptimizerConfig(name="sgd", lr=1e-6))
    for updater in (newton, sgd):
        run(updater, minibatches(1))
    assert_same_weights(newton, sgd, 1e-9)


def test_the_hessian_is_that_of_torch_func() -> None:
    net, batch = small_updater(OptimizerConfig()).module.double(), minibatches(1, torch.float64)[0]
    parameters = dict(net.named_parameters())
    sizes = [p.numel() for p in parameters.values()]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        pieces = zip(parameters.items(), flat.split(sizes), strict=True)
        outputs = torch.func.functional_call(net, {name: piece.view_as(p) for (name, p), piece in pieces}, batch.x)
        return (outputs - batch.y).square().mean()

    flat = nn.utils.parameters_to_vector(parameters.values()).detach()
    gradient, hessian = gradient_and_hessian(squared_error(net, batch), list(parameters.values()))
    torch.testing.assert_close(gradient, torch.func.grad(loss)(flat))
    # torch.func.hessian is wrong here: it goes forward through layer normalisation's backward
    torch.testing.assert_close(hessian, torch.func.jacrev(torch.func.grad(loss))(flat))


def test_a_linear_loss_has_no_curvature() -> None:
    p = torch.ones(3, requires_grad=True)
    gradient, hessian = gradient_and_hessian(2 * p.sum(), [p])
    assert torch.equal(gradient, torch.full((3,), 2.0))
    assert not hessian.any()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lbfgs_is_torchs(weight_decay: float) -> None:
    config = OptimizerConfig(name="lbfgs", max_iter=5, history_size=4, weight_decay=weight_decay)
    ours, plain = (small_updater(config, net=small_updater(config).module.double()) for _ in range(2))
    net, batches = plain.module, minibatches(15, torch.float64)  # rounding doubles every other step
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=5, history_size=4, line_search_fn="strong_wolfe")
    losses = []
    for batch in batches:

        def closure(batch: Batch = batch) -> torch.Tensor:
            optimizer.zero_grad()
            penalty = sum((p.square().sum() for p in net.parameters()), torch.zeros(()))
            loss = squared_error(net, batch) + weight_decay / 2 * penalty
            loss.backward()
            return loss

        losses.append(float(squared_error(net, batch)))
        optimizer.step(closure)
    assert run(ours, batches) == pytest.approx(losses, rel=1e-6)
    assert_same_weights(ours, plain, 1e-6)


def test_noise_is_the_same_in_all_evaluations_of_a_minibatch_and_statistics_are_gathered_once() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8, momentum=0.5), nn.Dropout(), nn.Linear(8, 1))
    masks: list[Any] = []
    net[2].register_forward_hook(lambda _, given, output: masks.append((output != 0) | (given[0] == 0)))

    def loss(batch: Batch) -> Loss:
        value = squared_error(net, batch)
        return Loss(value, {"loss": value.detach()})

    updater = Updater(net, loss, OptimizerConfig(name="lbfgs"))
    batch = Batch(torch.randn(16, 3), torch.randn(16, 1))
    mean = 0.5 * net[0](batch.x).mean(0)
    updater.step(batch)
    first = len(masks)
    torch.testing.assert_close(net[1].running_mean, mean)
    updater.step(batch)
    assert first > 2
    assert len(masks) > first + 2
    assert all(torch.equal(mask, masks[0]) for mask in masks[:first])
    assert not torch.equal(masks[first], masks[0])


def test_second_order_is_refused_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="at most 5,000; this model has 10,100"):
        small_updater(OptimizerConfig(name="newton"), net=nn.Linear(100, 100))
    updater = small_updater(OptimizerConfig(name="newton", damping=0.0), net=nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"Hessian is singular with optimizer.damping=0; a larger one helps"):
        updater.step(Batch(torch.zeros(1, 2), torch.zeros(1, 2)))
    for name in ("newton", "lbfgs"):
        config = OptimizerConfig.model_validate({"name": name})
        with pytest.raises(UserError, match=f"trainer.engine='traced' does not fit optimizer.name='{name}'"):
            small_updater(config, "traced")
        updater = small_updater(config)
        with pytest.raises(UserError, match="does not fit this module, whose updates are gradients alone"):
            updater.apply([torch.zeros_like(p) for p in updater.parameters], {})
        with monkeypatch.context() as patched:
            patched.setattr(ranks, "num_ranks", lambda: 2)
            with pytest.raises(UserError, match=r"updates in one process: trainer\.num_workers must be 1"):
                small_updater(config)


def test_auto_takes_the_eager_engine_for_them() -> None:
    experiment = resolve("ppo/cartpole", ["module.optimizer.name=lbfgs"])
    agent = experiment.module.build(experiment.data.build(0).spec)
    assert agent.auto_engine == "traced"
    agent.set_engine("auto")
    assert agent.updater.engine == "eager"
    with pytest.raises(UserError, match=r"use trainer\.engine=eager"):
        agent.set_engine("traced")
