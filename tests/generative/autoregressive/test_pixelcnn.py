"""Autoregressive image models: exact likelihoods, causality through the head, sampling, training."""

import itertools
import math

import pytest
import torch

from generative.autoregressive import pixelcnn
from generative.autoregressive.pixelcnn import AutoregressiveImageModel, PixelCNNConfig
from generative.autoregressive.sampling import KnownPixels
from lab.backbones import BackboneConfig
from lab.data.images import ImageData
from lab.data.resident import Batch
from lab.data.spec import DataSpec, TensorSpec
from lab.data.targets import Classes
from lab.errors import UserError
from tests.generative.autoregressive.backbones.causal import CAUSAL, SMALL

OUTPUTS = ("categorical", "logistic_mixture")


def model(name="gated_pixelcnn", shape=(1, 4, 4), levels=2, output="categorical", conditional=False, seed=0):
    """A small random model in float64."""
    torch.manual_seed(seed)
    config = PixelCNNConfig(
        backbone=BackboneConfig(name, **SMALL[name]),
        output=output,
        hidden=8,
        components=3,
        conditional=conditional,
    )
    spec = DataSpec(TensorSpec(shape, torch.float32, 0.0, 1.0, levels), target=Classes(3, ("a", "b", "c")))
    learner = AutoregressiveImageModel(config, spec).double().eval()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.mul_(1.5)
    return learner


def every_image(shape, levels):
    """All images of a shape (levels ** numel, C, H, W)."""
    values = torch.linspace(0, 1, levels, dtype=torch.float64)
    return torch.stack([torch.stack(p) for p in itertools.product(values, repeat=math.prod(shape))]).view(-1, *shape)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(("shape", "levels"), [((1, 2, 4), 2), ((3, 1, 2), 3), ((2, 2, 2), 2)])
def test_probabilities_of_all_images_sum_to_one(name, output, shape, levels):
    if name == "pixelcnn_pp" and shape != (1, 2, 4):
        pytest.skip("needs sides that can be halved")
    learner = model(name, shape, levels, output)
    with torch.no_grad():
        log_probs = learner.net(every_image(shape, levels)).flatten(1).sum(1)
    assert float(torch.logsumexp(log_probs, 0)) == pytest.approx(0, abs=1e-9)
    assert float(log_probs.std()) > 0.05


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_channel_sees_earlier_pixels_and_earlier_channels_alone(name, output):
    learner = model(name, (3, 4, 4), 5, output)
    x = (torch.randint(5, (1, 3, 4, 4)) / 4).double().requires_grad_()
    hidden = learner.net.head.prepare(learner.net.features(x, None))
    if output == "categorical":
        parameters = learner.net.head.logits(hidden, x)[0]  # (C, levels, H, W)
    else:
        logits, means, log_scales = learner.net.head.parameters_of(hidden, x)
        parameters = torch.cat([logits[:, None].expand_as(means), means, log_scales], 2)[0]  # (C, 3 M, H, W)
    weights = torch.randn(parameters.shape[1], dtype=torch.float64)
    outputs = torch.einsum("ckhw,k->hwc", parameters, weights).flatten()  # raster order, channels innermost
    for position, out in enumerate(outputs):
        gradient = torch.autograd.grad(out, x, retain_graph=True)[0][0].permute(1, 2, 0).flatten()
        assert not gradient[position:].any()
        pixel, channel = divmod(position, 3)
        assert gradient[pixel * 3 : pixel * 3 + channel].all()


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("conditional", [False, True])
def test_all_backends_draw_the_same_images(name, output, channels, conditional):
    learner = model(name, (channels, 4, 4), 4, output, conditional)
    labels = torch.tensor([0, 1, 2, 1, 0]) if conditional else None
    naive, cached, fixed_point = (
        learner.sample(5, labels=labels, backend=backend, generator=torch.Generator().manual_seed(3))
        for backend in ("naive", "cached", "fixed_point")
    )
    assert naive.shape == (5, channels, 4, 4)
    assert float(naive.std()) > 0.1
    assert torch.equal(naive, cached)
    assert torch.equal(naive, fixed_point)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_backends_agree_at_other_temperatures_and_with_known_pixels(output, temperature):
    learner = model(output=output, levels=4)
    image, known = torch.full((6, 1, 4, 4), 1 / 3, dtype=torch.float64), torch.rand(6, 1, 4, 4) < 0.4
    drawn = [
        learner.inpaint(
            KnownPixels(image, known),
            temperature=temperature,
            backend=backend,
            generator=torch.Generator().manual_seed(0),
        )
        for backend in ("naive", "cached", "fixed_point")
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert (drawn[0][known] == 1 / 3).all()


def test_temperature_zero_draws_the_mode_whatever_the_noise():
    learner = model(levels=4)
    a, b = (learner.sample(2, temperature=0, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    assert torch.equal(a, b)
    with torch.no_grad():
        hidden = learner.net.head.prepare(learner.net.features(a, None))
        logits = learner.net.head.logits(hidden, a)
    assert torch.equal(logits.argmax(2), (a * 3).round().long())


@pytest.mark.parametrize("output", OUTPUTS)
def test_samples_have_the_models_frequencies(output):
    learner = model("pixelcnn", (2, 1, 2), 3, output)
    images = every_image((2, 1, 2), 3)
    with torch.no_grad():
        expected = learner.net(images).flatten(1).sum(1).exp()
    drawn = learner.sample(40_000, generator=torch.Generator().manual_seed(0))
    code = (drawn * 2).round().flatten(1) @ torch.tensor([27.0, 9.0, 3.0, 1.0], dtype=torch.float64)
    counts = torch.bincount(code.long(), minlength=81)
    chi_squared = ((counts - expected * 40_000) ** 2 / (expected * 40_000)).sum()
    assert float(chi_squared) < 80 + 5 * math.sqrt(160)  # 80 degrees of freedom, five standard deviations


def test_progress_reaches_its_total():
    calls = []
    model().sample(300, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]


def test_labels_move_the_samples():
    learner = model(conditional=True)
    noise = [torch.Generator().manual_seed(0) for _ in range(2)]
    a = learner.sample(50, labels=torch.zeros(50, dtype=torch.int64), generator=noise[0])
    b = learner.sample(50, labels=torch.ones(50, dtype=torch.int64), generator=noise[1])
    assert not torch.equal(a, b)


def test_a_backbone_that_sees_everything_is_refused():
    spec = DataSpec(TensorSpec((1, 8, 8), torch.float32, 0.0, 1.0, 2), target=Classes(2))
    with pytest.raises(UserError, match="backbone"):
        PixelCNNConfig(backbone=BackboneConfig("resnet")).build(spec)


def test_pixels_without_levels_are_refused():
    with pytest.raises(UserError, match="levels"):
        PixelCNNConfig().build(DataSpec(TensorSpec((1, 8, 8)), target=Classes(2)))


@pytest.mark.slow
def test_nll_is_that_of_the_net_and_falls_with_training():
    data = ImageData(name="digits", batch_size=32).build(0)
    torch.manual_seed(0)
    learner = PixelCNNConfig(backbone=BackboneConfig("gated_pixelcnn", channels=8, layers=2)).build(data.spec)
    with torch.no_grad():
        before = learner.evaluate(data)
        nats = torch.cat([-learner.net(x).flatten(1).sum(1) for x, _ in data.batches("val")]).mean()
    assert before["eval/nll_nats"] == pytest.approx(float(nats), rel=1e-5)
    assert before["eval/bits_per_dim"] == pytest.approx(float(nats) / 64 / math.log(2), rel=1e-5)
    for _ in range(5):
        learner.training_step(data.next_chunk())
    with torch.no_grad():
        assert learner.evaluate(data)["eval/nll_nats"] < before["eval/nll_nats"] - 5


def test_pictures_show_samples_and_completions():
    data = ImageData(name="digits").build(0)
    learner = PixelCNNConfig(backbone=BackboneConfig("gated_pixelcnn", channels=4, layers=2)).build(data.spec).eval()
    with torch.no_grad():
        pictures = learner.pictures(data)
    assert {"samples", "completions"} <= set(pictures)
    x = next(iter(data.batches("val", 2)))
    completed = learner.completions(x.x, x.y, 3)
    assert completed.shape == (2, 4, 1, 8, 8)
    assert torch.equal(completed[:, :, :, :4], x.x[:, None, :, :4].expand(-1, 4, -1, -1, -1))


@pytest.mark.parametrize("output", OUTPUTS)
def test_bf16_reaches_the_backbone_but_not_the_likelihood(output):
    learner = model("pixelcnn_pp", (3, 4, 4), 256, output).float()
    dtypes = []
    learner.net.head.out.register_forward_hook(lambda module, inputs, out: dtypes.append((inputs[0].dtype, out.dtype)))
    learner.net.backbone.register_forward_hook(lambda module, inputs, out: dtypes.append(out.dtype))
    x = torch.randint(256, (2, 3, 4, 4)) / 255
    with torch.autocast("cpu", torch.bfloat16):
        log_prob = learner.net(x)
    assert dtypes == [torch.bfloat16, (torch.float32, torch.float32)]
    assert log_prob.dtype == torch.float32


@pytest.mark.parametrize("conditional", [False, True])
def test_likelihoods_in_parts_are_those_in_one_piece(conditional, monkeypatch):
    learner = model(conditional=conditional)
    x, labels = torch.rand(7, 1, 4, 4).round().double(), torch.arange(7) % 3 if conditional else None
    whole = learner.net(x, labels)
    monkeypatch.setattr(pixelcnn, "CACHED_PIXELS", 48)
    assert pixelcnn.num_parts(x) == 3
    torch.testing.assert_close(learner.net(x, labels), whole)


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", ["pixelcnn", "gated_pixelcnn"])
def test_traced_updates_equal_eager_ones(name, conditional):
    x, labels = torch.rand(4, 1, 4, 4).round().double(), torch.tensor([0, 1, 2, 0])
    after = []
    for engine in ("eager", "traced"):
        learner = model(name, conditional=conditional)
        learner.set_engine(engine)
        for _ in range(2):
            learner.updater.step(Batch(x, labels))
        after.append(torch.cat([p.detach().flatten() for p in learner.parameters()]))
    torch.testing.assert_close(after[0], after[1])
