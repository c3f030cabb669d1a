"""Optimizers, rates of layers and regularisation against torch's own loop, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lab.config.overrides import resolve
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.engine.regularizers import weights_of
from lab.errors import UserError
from tests.lab.engine.small_net import (
    Net,
    assert_same_weights,
    minibatches,
    run,
    saved_and_restored,
    small_updater,
    squared_error,
)

RISING = ScheduleConfig(name="linear", final=1.9)


def _muon(net: Net) -> list[torch.optim.Optimizer]:
    matrices = [net.hidden.weight, net.head.weight]
    others = [p for p in net.parameters() if p.ndim != 2]
    return [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=0.02, weight_decay=0.1),
    ]


OPTIMIZERS: dict[str, tuple[dict[str, Any], Callable[[Net], Any]]] = {
    "adam": ({"weight_decay": 0.1}, lambda net: torch.optim.Adam(net.parameters(), 0.02, weight_decay=0.1)),
    "adamw": ({"weight_decay": 0.1}, lambda net: torch.optim.AdamW(net.parameters(), 0.02, weight_decay=0.1)),
    "nadam": ({}, lambda net: torch.optim.NAdam(net.parameters(), 0.02)),
    "radam": ({}, lambda net: torch.optim.RAdam(net.parameters(), 0.02)),
    "sgd": (
        {"momentum": 0.9, "nesterov": True},
        lambda net: torch.optim.SGD(net.parameters(), 0.02, momentum=0.9, nesterov=True),
    ),
    "rmsprop": ({}, lambda net: torch.optim.RMSprop(net.parameters(), 0.02)),
    "adagrad": ({}, lambda net: torch.optim.Adagrad(net.parameters(), 0.02, eps=1e-8)),
    "adadelta": ({"rho": 0.8}, lambda net: torch.optim.Adadelta(net.parameters(), 0.02, rho=0.8, eps=1e-8)),
    "muon": ({"weight_decay": 0.1}, _muon),
}
RESUMED = {
    "muon": OptimizerConfig(name="muon", lr=0.02),
    "momentum_schedule": OptimizerConfig(name="sgd", lr=0.02, momentum=0.5, momentum_schedule=RISING),
    "rmsprop_momentum_schedule": OptimizerConfig(name="rmsprop", lr=0.02, momentum=0.5, momentum_schedule=RISING),
    "rates": OptimizerConfig(lr=0.02, rates={"*": 0.5, "conv.*": 0, "head.*": 1}),
    "regularised": OptimizerConfig(name="adamw", lr=0.02, l1=0.1, weight_decay=0.1, max_norm=0.3),
    "lbfgs": OptimizerConfig(name="lbfgs", max_iter=3),
    "newton": OptimizerConfig(name="newton", damping=1.0),
}


def run_in_torch(net: Net, optimizers: list[Any], after_backward: Callable[[int], None] = lambda i: None) -> None:
    for i, batch in enumerate(minibatches(20)):
        net.zero_grad()
        squared_error(net, batch).backward()
        after_backward(i)
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_updates_are_those_of_torch(name: Any) -> None:
    options, build = OPTIMIZERS[name]
    ours, plain = (small_updater(OptimizerConfig(name=name, lr=0.02, **options)) for _ in range(2))
    built = build(plain.module)
    run_in_torch(plain.module, built if isinstance(built, list) else [built])  # type: ignore[arg-type]
    run(ours, minibatches(20))
    assert_same_weights(ours, plain, 1e-3 if name == "muon" else 1e-6)  # Muon rounds to bfloat16: a last bit shows


def test_a_momentum_schedule_raises_the_momentum() -> None:
    config = OptimizerConfig(name="sgd", lr=0.02, momentum=0.5, momentum_schedule=RISING)
    ours, plain = small_updater(config), small_updater(config)
    sgd = torch.optim.SGD(plain.module.parameters(), 0.02, momentum=0.5)

    def raise_momentum(i: int) -> None:
        sgd.param_groups[0]["momentum"] = 0.5 + 0.45 * i / 20

    run_in_torch(plain.module, [sgd], raise_momentum)  # type: ignore[arg-type]
    run(ours, minibatches(20))
    assert_same_weights(ours, plain, 1e-6)


@pytest.mark.parametrize("name", ["adam", "sgd", "muon"])
def test_rates_of_layers_are_torchs_groups(name: Any) -> None:
    rates = {"conv.*": 0.1, "norm.*": 0.0, "hidden.*": 0.5, "*.bias": 2.0}  # the last that fits counts
    ours = small_updater(OptimizerConfig(name=name, lr=0.02, rates=rates))
    before = copy.deepcopy(ours.module)
    plain = small_updater(OptimizerConfig())
    factors = {"conv.weight": 0.1, "norm.weight": 0.0, "hidden.weight": 0.5, "head.weight": 1.0}
    groups = [
        {"params": [p], "lr": 0.02 * factors.get(key, 2.0)} for key, p in plain.module.named_parameters()
    ]  # fmt: skip
    optimizers = {
        "adam": lambda: [torch.optim.Adam(groups)],
        "sgd": lambda: [torch.optim.SGD(groups)],
        "muon": lambda: [
            torch.optim.Muon(
                [group for group in groups if group["params"][0].ndim == 2],  # type: ignore[index]
                weight_decay=0.0,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW([g for g in groups if g["params"][0].ndim != 2], weight_decay=0.0),  # type: ignore[index]
        ],
    }
    run_in_torch(plain.module, optimizers[name]())  # type: ignore[arg-type]
    run(ours, minibatches(20))
    assert_same_weights(ours, plain, 1e-6)
    assert torch.equal(ours.module.norm.weight, before.norm.weight)  # type: ignore[union-attr, arg-type]
    assert ours.rate == pytest.approx(0.02)


def test_rates_of_one_keep_the_quick_step() -> None:
    for rates, quick in (({}, True), ({"conv.*": 1.0}, True), ({"conv.*": 0.0}, True), ({"conv.*": 0.1}, False)):
        updater = small_updater(OptimizerConfig(rates=rates))
        run(updater, minibatches(2))
        assert (updater._fused_step is not None) == quick, rates


def test_what_is_thawed_goes_on_with_the_state_of_the_others(tmp_path: Path) -> None:
    frozen = small_updater(OptimizerConfig(lr=0.02, rates={"conv.*": 0.0}))
    run(frozen, minibatches(3))
    thawed = saved_and_restored(frozen, tmp_path / "state.pt", OptimizerConfig(lr=0.02))
    state = {name: thawed.optimizer.state.get(p) for name, p in thawed.module.named_parameters()}
    assert not state["conv.weight"]
    for name, p in frozen.module.named_parameters():
        if not name.startswith("conv"):
            assert torch.equal(state[name]["exp_avg"], frozen.optimizer.state[p]["exp_avg"])  # type: ignore[index]
    before = thawed.module.conv.weight.clone()  # type: ignore[union-attr, operator]
    run(thawed, minibatches(3), 3)
    steps = [float(thawed.optimizer.state[p]["step"]) for p in thawed.parameters]
    assert steps == [3.0, 3.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0]
    assert not torch.equal(thawed.module.conv.weight, before)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_l1_is_a_subgradient_on_weights_and_elastic_net_with_l2(weight_decay: float) -> None:
    config = OptimizerConfig(name="sgd", lr=0.02, l1=0.2, weight_decay=weight_decay, max_grad_norm=0.1)
    ours, plain = small_updater(config), small_updater(config)
    net = plain.module
    sgd = torch.optim.SGD(net.parameters(), 0.02)

    def regularize(i: int) -> None:
        nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        for name, p in net.named_parameters():
            assert p.grad is not None
            p.grad += weight_decay * p.detach()
            if name in ("conv.weight", "hidden.weight", "head.weight"):
                p.grad += 0.2 * p.detach().sign()

    run_in_torch(net, [sgd], regularize)  # type: ignore[arg-type]
    losses = run(ours, minibatches(20))
    assert_same_weights(ours, plain, 1e-6)
    assert losses[0] == pytest.approx(float(squared_error(small_updater(config).module, minibatches(1)[0])))


@pytest.mark.parametrize("name", ["adam", "sgd", "newton"])
def test_max_norm_bounds_each_units_weights(name: Any) -> None:
    bounded, free = (small_updater(OptimizerConfig(name=name, lr=0.1, max_norm=bound)) for bound in (0.4, None))
    for updater in (bounded, free):
        run(updater, minibatches(1))
    for key, p in free.module.named_parameters():
        expected = p.detach().clone()
        if key in ("conv.weight", "hidden.weight", "head.weight"):
            rows = expected.flatten(1)
            norms = rows.norm(dim=1, keepdim=True)
            assert (norms > 0.4).any()
            expected = (rows * (0.4 / norms).clamp(max=1.0)).view_as(p)
        torch.testing.assert_close(bounded.module.get_parameter(key), expected, rtol=1e-5, atol=1e-6)


def test_units_of_a_transposed_convolution_lie_along_its_second_dimension() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(3, 2, 3), nn.BatchNorm2d(2), nn.Embedding(4, 2))
    weights = weights_of(net, [name for name, _ in net.named_parameters()])
    assert [(weight.position, weight.dim) for weight in weights] == [(0, 1), (4, 0)]


def test_muon_leaves_embeddings_to_adamw() -> None:
    net = nn.ModuleDict({"words": nn.Embedding(4, 2), "out": nn.Linear(2, 4)})
    muon, adamw = small_updater(OptimizerConfig(name="muon"), net=net).optimizer.param_groups
    assert muon["params"] == [net["out"].weight]
    assert len(adamw["params"]) == 2
    alone = small_updater(OptimizerConfig(name="muon"), net=nn.Conv2d(1, 3, 3)).optimizer
    assert len(alone.param_groups) == 1


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_updates_go_on_bit_for_bit_from_a_saved_state(name: str, stop: int, tmp_path: Path) -> None:
    batches = minibatches(5)
    whole, first = small_updater(RESUMED[name]), small_updater(RESUMED[name])
    losses = run(whole, batches)
    assert run(first, batches[:stop]) == losses[:stop]
    second = saved_and_restored(first, tmp_path / "state.pt")
    assert run(second, batches[stop:], stop) == losses[stop:]
    assert_same_weights(second, whole)
    assert second.num_updates == len(batches)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["muon", "momentum_schedule", "rates", "regularised"])
def test_traced_updates_equal_eager_ones(name: str) -> None:
    eager, traced = small_updater(RESUMED[name]), small_updater(RESUMED[name], "traced")
    tolerance = 1e-2 if name == "muon" else 1e-5  # its orthogonal matrices are made in bfloat16
    assert run(traced, minibatches(8)) == pytest.approx(run(eager, minibatches(8)), abs=tolerance)
    assert_same_weights(traced, eager, tolerance)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["name=adam", "momentum=0.9"], "momentum=0.9 is not used by 'adam', only by sgd, rmsprop, muon"),
        (["name=lbfgs", "l1=0.1"], "l1=0.1 is not used by 'lbfgs', only by adam,"),
        (["name=lbfgs", "schedule={name: linear}"], "schedule is not used by 'lbfgs', only by adam,"),
        (["name=newton", "rates={'*': 0.5}"], "rates=.* is not used by 'newton'"),
        (["momentum_schedule.name=linear"], "momentum_schedule is not used by 'adam'"),
        (["name=sgd", "nesterov=true"], "nesterov needs a momentum above 0"),
        (["name=sgd", "momentum_schedule.name=linear"], "momentum_schedule needs a momentum above 0"),
        (
            ["name=sgd", "momentum=0.5", "momentum_schedule={name: linear, final: 2}"],
            "momentum_schedule takes the momentum to 1; it must stay below 1",
        ),
        (["name=sgd", "momentum=0.5", "momentum_schedule.warmup=0.1"], "momentum_schedule has no warmup"),
        (["name=sgd", "momentum=0.5", "momentum_schedule.name=plateau"], "is for a learning rate only"),
    ],
)
def test_what_an_optimizer_does_not_use_is_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        resolve("classifier/digits-cnn", [f"module.optimizer.{each}" for each in overrides])


@pytest.mark.parametrize(("betas", "index"), [("[1,0.9]", 0), ("[0.9,1]", 1), ("[0.9,-0.1]", 1)])
def test_a_moment_that_never_decays_is_refused(betas: str, index: int) -> None:
    with pytest.raises(UserError, match=rf"module\.optimizer\.betas\.{index}=\S+ is not valid"):
        resolve("classifier/digits-cnn", [f"module.optimizer.betas={betas}"])


def test_rates_for_nothing_are_refused_with_the_nearest_names() -> None:
    with pytest.raises(
        UserError, match=r"unknown parameters in module.optimizer.rates 'heads.weight'. Did you mean 'head.w"
    ):
        small_updater(OptimizerConfig(rates={"heads.weight": 0.1}))
    with pytest.raises(UserError, match="freezes all parameters: nothing is left to train"):
        small_updater(OptimizerConfig(rates={"*": 0}))
