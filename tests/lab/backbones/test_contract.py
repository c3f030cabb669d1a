"""What every registered backbone promises. B batch, T steps, F features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lab.backbones import BackboneConfig, build_backbone
from lab.backbones.registry import BACKBONES, Backbone
from lab.errors import UserError
from tests.lab.backbones.registered import NAMES, each

FEED_FORWARD = [name for name in NAMES if not BACKBONES[name].recurrent]
RECURRENT = [name for name in NAMES if BACKBONES[name].recurrent]


def build(name: str, **options: object) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(name=name, **options), BACKBONES[name].example_shape)


def without_noise(backbone: Backbone) -> Backbone:
    """In training, but nothing is lost at random."""
    for module in backbone.modules():
        for name in ("p", "drop_path"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return backbone


def run(backbone: Backbone, x: Tensor, reset: Tensor | None = None, state: Tensor | None = None) -> Tensor:
    """Features of x (B, ...), or of x (T, B, D) for a recurrent backbone."""
    if not backbone.recurrent:
        features: Tensor = backbone(x)
        return features
    reset = torch.zeros(x.shape[:2], dtype=torch.bool) if reset is None else reset
    features, _ = backbone(x, backbone.initial_state(x.shape[1]) if state is None else state, reset)
    return features


def example(backbone: Backbone, batch: int = 3, steps: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    lead = (steps, batch) if backbone.recurrent else (batch,)
    return torch.rand(*lead, *backbone.input_shape, generator=generator)


@each(NAMES)
def test_output_has_the_promised_shape(name: str) -> None:
    backbone = build(name)
    x = example(backbone)
    lead = x.shape[: 2 if backbone.recurrent else 1]
    assert run(backbone, x).shape == (*lead, *backbone.output_shape)
    assert backbone.num_features == int(torch.Size(backbone.output_shape).numel())
    assert BACKBONES.summaries()[name]


@each(NAMES)
def test_samples_of_a_batch_do_not_see_each_other(name: str) -> None:
    backbone = build(name).eval()
    x = example(backbone, batch=4)
    axis = 1 if backbone.recurrent else 0
    alone = torch.cat([run(backbone, part) for part in x.split(1, dim=axis)], dim=axis)
    torch.testing.assert_close(run(backbone, x), alone, rtol=1e-4, atol=1e-5 * max(1, float(alone.abs().max())))


@each(NAMES)
def test_gradients_reach_every_parameter(name: str) -> None:
    backbone = without_noise(build(name))
    parameters = dict(backbone.named_parameters())
    if not parameters:
        pytest.skip("it has none")
    features = run(backbone, example(backbone, batch=8))
    (features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
    assert [key for key, p in parameters.items() if p.grad is None or not p.grad.any()] == []


@each(NAMES)
def test_the_output_depends_on_the_input(name: str) -> None:
    backbone = build(name).eval()
    x = example(backbone)
    assert not torch.equal(run(backbone, x), run(backbone, x + 0.5))


@each(NAMES)
def test_weights_are_a_function_of_the_seed_and_survive_a_state_dict(name: str) -> None:
    first, second = without_noise(build(name)), without_noise(build(name))
    x = example(first)
    torch.testing.assert_close(run(first.eval(), x), run(second.eval(), x), rtol=0, atol=0)
    for p in second.parameters():
        nn.init.constant_(p, 0.1)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(run(first, x), run(second, x), rtol=0, atol=0)


@each(NAMES)
def test_options_have_defaults_and_wrong_ones_are_refused(name: str) -> None:
    options = BackboneConfig.options_of(name)
    assert BackboneConfig(name=name, **options).name == name
    with pytest.raises(ValueError, match="no_such_option"):
        BackboneConfig(name=name, no_such_option=1)


@each(NAMES)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3, 4, 5, 6)])
def test_shapes_that_no_backbone_takes_are_one_sentence(name: str, shape: tuple[int, ...]) -> None:
    try:
        built = build_backbone(BackboneConfig(name=name), shape)
    except UserError as error:
        message = str(error)
    else:  # an MLP flattens what it is given
        assert run(built, example(built)).shape[-len(built.output_shape) :] == built.output_shape
        return
    assert f"backbone {name!r} cannot take inputs of shape {shape}" in message
    assert "\n" not in message


@each(RECURRENT)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_sequence_equals_its_steps(name: str, num_layers: int) -> None:
    backbone = build(name, num_layers=num_layers).eval()
    x = example(backbone, batch=3, steps=6)
    reset = torch.zeros(6, 3, dtype=torch.bool)
    reset[2, 0] = reset[4, 1] = reset[4, 2] = True
    state = torch.randn(backbone.initial_state(3).shape, generator=torch.Generator().manual_seed(2))
    whole, last = backbone(x, state, reset)
    stepwise = []
    for t in range(6):
        features, state = backbone(x[t : t + 1], state, reset[t : t + 1])
        stepwise.append(features)
    torch.testing.assert_close(whole, torch.cat(stepwise), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(last, state, rtol=1e-5, atol=1e-6)


@each(RECURRENT)
def test_a_reset_forgets_what_came_before_and_nothing_else(name: str) -> None:
    backbone = build(name).eval()
    x = example(backbone, batch=2, steps=5)
    reset = torch.zeros(5, 2, dtype=torch.bool)
    reset[2, 0] = True
    with_reset, without = run(backbone, x, reset), run(backbone, x)
    fresh = run(backbone, x[2:, :1])
    torch.testing.assert_close(with_reset[2:, :1], fresh, rtol=1e-5, atol=1e-6)  # as if it began at the reset
    torch.testing.assert_close(with_reset[:2], without[:2], rtol=1e-5, atol=1e-6)  # nothing before it changes
    torch.testing.assert_close(with_reset[:, 1], without[:, 1], rtol=1e-5, atol=1e-6)  # nor in another sequence
    assert not torch.allclose(with_reset[2:, 0], without[2:, 0])


@each(RECURRENT)
def test_no_gradient_passes_a_reset(name: str) -> None:
    backbone = build(name)
    x = example(backbone, batch=1, steps=4).requires_grad_()
    reset = torch.zeros(4, 1, dtype=torch.bool)
    reset[2] = True
    run(backbone, x, reset)[3].sum().backward()
    assert x.grad is not None
    assert not x.grad[:2].any()
    assert x.grad[2:].any()


@each(RECURRENT)
def test_reset_at_the_first_step_ignores_the_given_state(name: str) -> None:
    backbone = build(name).eval()
    x = example(backbone, batch=2)
    reset = torch.zeros(5, 2, dtype=torch.bool)
    reset[0] = True
    state = torch.randn(backbone.initial_state(2).shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(run(backbone, x, reset, state), run(backbone, x))


@pytest.mark.parametrize("name", ["mlp", "resnet", "lenet"])
@pytest.mark.parametrize("shape", [(4,), (1, 8, 8), (3, 32, 32)])
def test_one_network_serves_vectors_and_images(name: str, shape: tuple[int, ...]) -> None:
    backbone = build_backbone(BackboneConfig(name=name), shape)
    assert backbone(torch.rand(2, *shape)).shape == (2, *backbone.output_shape)


def test_mlp_equals_its_own_matrix_products() -> None:
    backbone = build("mlp", hidden=(5, 7), activation="tanh")
    x = example(backbone)
    expected = x
    for layer in [module for module in backbone.modules() if isinstance(module, nn.Linear)]:
        expected = torch.tanh(expected @ layer.weight.T + layer.bias)
    torch.testing.assert_close(backbone(x), expected)


@each(RECURRENT)
def test_recurrent_backbones_equal_torchs_own_layers(name: str) -> None:
    backbone = build(name, hidden=16)
    x = example(backbone, batch=2, steps=4)
    torch.testing.assert_close(run(backbone, x), backbone.net.core(x)[0])  # type: ignore[operator, union-attr]
