import json
import math

import pytest
import torch

from generative import learner
from generative.adversarial import gan
from generative.adversarial.gan import Contest, Fakes, GANConfig
from generative.decoders import ConvDecoder, MlpDecoder
from lab.backbones import BackboneConfig
from lab.config.overrides import resolve
from lab.data.images import ImageData
from lab.engine.optimizers import OptimizerConfig
from lab.errors import UserError
from lab.runs.checkpoint import load
from lab.runs.directory import Run
from lab.training.train import train

LOSSES = ("non_saturating", "least_squares", "hinge", "wasserstein")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def data():
    return ImageData(name="digits", batch_size=16, batches_per_step=4, num_train=64).build(0)


def small_gan(data, **options):
    options = {
        "backbone": BackboneConfig(name="mlp", hidden=(16,), activation="tanh"),
        "decoder": MlpDecoder(hidden=(16,)),
    } | options
    return GANConfig(**{"latents": 4, **options}).build(data.spec)


def test_losses_by_hand():
    real, fake = torch.tensor([2.0, -0.5]), torch.tensor([1.0, -3.0])

    def log_sigmoid(v):
        return -math.log1p(math.exp(-v))

    expected = -(log_sigmoid(2) + log_sigmoid(-0.5)) / 2 - (log_sigmoid(-1) + log_sigmoid(3)) / 2
    assert float(gan.objective("non_saturating").discriminator(real, fake)) == pytest.approx(expected, rel=1e-5)
    assert float(gan.objective("non_saturating").generator(fake)) == pytest.approx(
        -(log_sigmoid(1) + log_sigmoid(-3)) / 2, rel=1e-5
    )
    assert float(gan.objective("least_squares").discriminator(real, fake)) == pytest.approx((1 + 2.25 + 1 + 9) / 4)
    assert float(gan.objective("least_squares").generator(fake)) == pytest.approx((0 + 16) / 4)
    assert float(gan.objective("hinge").discriminator(real, fake)) == pytest.approx((0 + 1.5) / 2 + (2 + 0) / 2)
    assert float(gan.objective("hinge").generator(fake)) == pytest.approx(1.0)
    assert float(gan.objective("wasserstein").discriminator(real, fake)) == pytest.approx(-1.0 - 0.75)
    assert float(gan.objective("wasserstein").generator(fake)) == pytest.approx(1.0)


def test_an_unknown_objective_is_refused_with_the_valid_ones(data):
    with pytest.raises(UserError, match=r"unknown module.loss 'hinged'. Did you mean 'hinge'\?.*wasserstein"):
        gan.objective("hinged")
    with pytest.raises(UserError, match="hinged"):
        small_gan(data).config.model_copy(update={"loss": "hinged"}).build(data.spec)
    assert set(gan.OBJECTIVES) == set(LOSSES)


def test_the_optimal_discriminators_loss_is_that_of_the_paper():
    # with D = 1/2 everywhere the value of the game is 2 log 2 (Goodfellow et al. 2014, theorem 1)
    zero = torch.zeros(5)
    assert float(gan.objective("non_saturating").discriminator(zero, zero)) == pytest.approx(2 * math.log(2))


def test_squared_gradient_norm_agrees_with_finite_differences():
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)
    ).double()
    x = torch.randn(3, 1, 2, 2).double().requires_grad_()
    squared_norm = gan.squared_gradient_norm(net(x)[:, 0], x)
    slow = torch.zeros(3).double()
    with torch.no_grad():
        for i in range(4):
            step = torch.zeros(4).double()
            step[i] = 1e-5
            step = step.view(1, 1, 2, 2)
            slow += ((net(x + step) - net(x - step))[:, 0] / 2e-5).square()
    torch.testing.assert_close(squared_norm, slow, rtol=1e-6, atol=1e-9)
    squared_norm.sum().backward()
    assert net[1].weight.grad is not None


@pytest.mark.parametrize("options", [{"r1": 3.0}, {"gradient_penalty": 10.0}, {"r1": 1.0, "penalty_period": 2}])
def test_penalties_have_the_gradient_of_finite_differences(data, options):
    model = small_gan(data, ema=0.0, **options).double()
    x, fake = torch.rand(2, 5, 1, 8, 8).double()
    y = torch.zeros(5).long()
    weight = model.discriminator.features.backbone.net[1].weight

    def loss():
        torch.manual_seed(1)  # the same points between real and fake
        return model.discriminator_loss(Contest(x, fake, y)).value

    (gradient,) = torch.autograd.grad(loss(), weight)
    for index in ((0, 9), (7, 30)):
        values = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                weight[index] += step
            values.append(float(loss()))
        with torch.no_grad():
            weight[index] += 1e-5
        assert float(gradient[index]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-8)


def test_lazy_penalties_come_every_nth_update_and_n_times_as_strong(data):
    lazy, eager = small_gan(data, r1=1.0, penalty_period=4), small_gan(data, r1=4.0)
    eager.load_state_dict(lazy.state_dict())
    x, fake, y = torch.rand(5, 1, 8, 8), torch.rand(5, 1, 8, 8), torch.zeros(5).long()
    batch = Contest(x, fake, y)
    torch.testing.assert_close(lazy.discriminator_loss(batch).value, eager.discriminator_loss(batch).value)
    lazy.discriminator_updater.num_updates = 1
    plain = gan.objective("non_saturating").discriminator(lazy.discriminator(x, None), lazy.discriminator(fake, None))
    torch.testing.assert_close(lazy.discriminator_loss(batch).value, plain)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"conditional": True, "spectral_norm": True},
        {"gradient_penalty": 10.0, "discriminator_steps": 2, "ema": 0.0},
        {
            "backbone": BackboneConfig(name="dcgan", channels=(8, 16)),
            "decoder": ConvDecoder(channels=(16, 8)),
            "r1": 0.1,
        },
        {"backbone": BackboneConfig(name="resnet", channels=(8, 16)), "spectral_norm": True},
    ],
)
def test_switches_combine_freely(data, loss, options):
    model = small_gan(data, loss=loss, **options)
    before = [p.detach().clone() for p in (*model.generator.parameters(), *model.discriminator.parameters())]
    metrics = model.training_step(data.next_chunk())
    after = [*model.generator.parameters(), *model.discriminator.parameters()]
    assert all(math.isfinite(float(value)) for value in metrics.values())
    assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) > len(before) / 2
    assert model.generator_updater.num_updates == 4 // model.config.discriminator_steps
    assert model.discriminator_updater.num_updates == 4
    images = model.eval().sample(5)
    assert images.shape == (5, 1, 8, 8)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


def test_spectral_norm_divides_by_the_largest_singular_value(data):
    model = small_gan(data, spectral_norm=True)
    x = torch.rand(4, 1, 8, 8)
    for _ in range(50):
        model.discriminator(x, None)  # each pass in training is one power iteration
    weight = model.discriminator.features.backbone.net[1].weight
    assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1, abs=1e-3)


def test_the_average_follows_the_generator_by_hand(data):
    model = small_gan(data, ema=0.9, decoder=MlpDecoder(hidden=(8,), norm="batch"))
    expected = [p.detach().clone() for p in model.average.parameters()]
    for num_updates in range(1, 4):
        model.generator_updater.num_updates = num_updates
        with torch.no_grad():
            for p in model.generator.parameters():
                p.add_(torch.randn_like(p))
        decay = min(0.9, (1 + num_updates) / (10 + num_updates))
        expected = [decay * e + (1 - decay) * p for e, p in zip(expected, model.generator.parameters(), strict=True)]
        model._update_average()
    for e, p in zip(expected, model.average.parameters(), strict=True):
        torch.testing.assert_close(p, e.detach())


def test_samples_come_from_the_average(data):
    model = small_gan(data).eval()
    with torch.no_grad():
        for p in model.generator.parameters():
            p.zero_()
    images = model.sample(4, generator=torch.Generator().manual_seed(0))
    assert float(images.std()) > 0
    torch.testing.assert_close(images, model.sample(4, generator=torch.Generator().manual_seed(0)))


def test_a_generators_gradient_reaches_only_the_generator(data):
    model = small_gan(data)
    frozen = [p.detach().clone() for p in model.discriminator.parameters()]
    fake = model.generator(torch.randn(6, 4), None)
    model.generator_updater.step(Fakes(fake, torch.zeros(6).long()))
    for before, p in zip(frozen, model.discriminator.parameters(), strict=True):
        assert torch.equal(before, p)
        assert p.grad is None


def test_total_variation_is_weighed_into_the_generators_loss(data):
    plain, smooth = small_gan(data), small_gan(data, total_variation=0.5)
    smooth.load_state_dict(plain.state_dict())
    fake = torch.rand(5, 1, 8, 8)
    variation = (fake.diff(dim=2).abs().sum() + fake.diff(dim=3).abs().sum()) / 5
    without, weighed = (gan.generator_loss(Fakes(fake, torch.arange(5))) for gan in (plain, smooth))
    torch.testing.assert_close(weighed.value - without.value, 0.5 * variation)
    assert float(weighed.metrics["total_variation"]) == pytest.approx(float(variation))
    assert "total_variation" not in without.metrics


def test_projection_uses_the_class(data):
    model = small_gan(data, conditional=True)
    x = torch.rand(1, 1, 8, 8).expand(2, -1, -1, -1)
    logits = model.discriminator(x, torch.tensor([0, 5]))
    assert float((logits[0] - logits[1]).abs()) > 1e-4


@pytest.mark.slow
def test_a_resumed_run_equals_one_that_was_never_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(learner, "distribution_metrics", lambda *a, **k: {"eval/lenet_frechet_distance": 1.0})
    small = "tracking.mode=disabled data.batch_size=16 data.batches_per_step=5 module.latents=4 trainer.eval_period=400"
    networks = "module.decoder.hidden=[16] module.backbone.hidden=[16]"
    experiment = resolve("gan/digits", [*small.split(), *networks.split()])
    half, whole = (
        experiment.model_copy(update={"trainer": experiment.trainer.model_copy(update={"budget": budget})})
        for budget in (400, 800)
    )
    straight = train(whole, run_dir=tmp_path / "straight").run
    stopped = train(whole, run_dir=tmp_path / "stopped", on_loop=lambda loop: loop.ask_to_stop()).run
    assert json.loads((stopped.path / "result.json").read_text())["status"] == "interrupted"
    assert json.loads((stopped.path / "result.json").read_text())["samples"] < half.trainer.budget
    train(whole, resume=Run.open(stopped.path))
    a, b = (load(run.checkpoint("last")) for run in (straight, stopped))
    assert a["counters"] == b["counters"]
    assert any(key.startswith("average.") for key in a["state_dict"])
    for key, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][key]), key
    for name in ("generator", "discriminator"):
        first, second = (content["train"]["updaters"][name]["optimizer"]["state"] for content in (a, b))
        for index, state in first.items():
            for key, value in state.items():
                assert torch.equal(value, second[index][key]), (name, index, key)


def test_a_divergence_is_said(data):
    model = small_gan(data, discriminator_optimizer=OptimizerConfig(lr=0.05), optimizer=OptimizerConfig(lr=1e-7))
    for _ in range(20):
        metrics = model.training_step(data.next_chunk())
    assert float(metrics["monitors/discriminator_wins"]) == 1.0
    assert float(metrics["monitors/collapse"]) in (0.0, 1.0)


def test_several_discriminator_steps_report_both_networks(data):
    model = small_gan(data, discriminator_steps=2)
    metrics = model.training_step(data.next_chunk())
    assert {"losses/discriminator", "losses/generator", "losses/real_spread", "monitors/collapse"} <= set(metrics)


def test_a_generator_of_one_image_is_called_collapsed(data):
    model = small_gan(data, optimizer=OptimizerConfig(lr=1e-9))
    with torch.no_grad():
        model.generator.decoder[-2].weight.zero_()
    assert float(model.training_step(data.next_chunk())["monitors/collapse"]) == 1.0


def test_a_conditional_gan_shows_raw_samples_of_the_same_classes(data):
    model = small_gan(data, conditional=True).eval()
    model.average.load_state_dict(model.generator.state_dict())
    with torch.no_grad():
        pictures = model.pictures(data)
    assert (pictures["samples"] == pictures["samples_raw"]).all()
    assert pictures["neighbours"].shape[1] == 8 * 58 + 2
