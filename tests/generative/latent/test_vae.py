import math

import numpy as np
import pytest
import torch

from generative import likelihoods
from generative.decoders import ConvDecoder, MlpDecoder, ResNetDecoder
from generative.latent.pixel_likelihoods import build_likelihood
from generative.latent.vae import Encoded, VAEConfig
from lab.backbones import BackboneConfig
from lab.data.images import ImageData
from lab.data.spec import DataSpec, TensorSpec
from lab.data.targets import Classes
from lab.errors import UserError

BITS = DataSpec(TensorSpec((1, 3, 3), torch.float32, 0.0, 1.0, 2), target=Classes(3))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small_vae(spec=BITS, **options):
    options = {"backbone": BackboneConfig(name="mlp", hidden=(16,)), "decoder": MlpDecoder(hidden=(16,))} | options
    return VAEConfig(**{"latents": 1, **options}).build(spec)


def spread_weights(vae):
    """Larger weights, so that the posterior and the likelihood depend on their inputs."""
    with torch.no_grad():
        for p in vae.parameters():
            p.mul_(2.0)
    return vae


def log_px_by_integration(vae, x):
    """log p(x) (B,) by quadrature over the one latent."""
    z = torch.linspace(-8, 8, 4001)[:, None, None].expand(-1, len(x), -1)
    log_joint = vae.net.likelihood.log_prob(vae.net.decode(z, None), x)
    log_joint = log_joint + likelihoods.standard_normal_log_prob(z)
    return torch.logsumexp(log_joint.double(), 0) + math.log(16 / 4000)


def test_importance_weighted_likelihood_converges_to_the_integral():
    vae, x = spread_weights(small_vae()), torch.randint(0, 2, (6, 1, 3, 3)).float()
    with torch.no_grad():
        exact = log_px_by_integration(vae, x)
        log_weights = vae.log_weights(x, None, 20_000)
    estimate = likelihoods.importance_weighted_bound(log_weights.double(), dim=0)
    torch.testing.assert_close(estimate, exact, atol=0.03, rtol=0)


def test_the_elbo_is_below_the_integral_by_the_kl_to_the_true_posterior():
    vae, x = spread_weights(small_vae()), torch.randint(0, 2, (6, 1, 3, 3)).float()
    with torch.no_grad():
        exact = log_px_by_integration(vae, x)
        elbo = vae.log_weights(x, None, 20_000).double().mean(0)
        mean, log_variance = vae.net.encode(x, None)
        z = torch.linspace(-8, 8, 4001)[:, None, None].expand(-1, 6, -1)
        log_q = likelihoods.diagonal_gaussian_log_prob(z, mean, log_variance).double()
        log_joint = vae.net.likelihood.log_prob(vae.net.decode(z, None), x) + likelihoods.standard_normal_log_prob(z)
        gap = (log_q.exp() * (log_q - (log_joint - exact))).sum(0) * 16 / 4000
    torch.testing.assert_close(exact - elbo, gap, atol=0.05, rtol=0)


def test_log_weights_are_the_definition_and_chunks_do_not_change_them(monkeypatch):
    vae = spread_weights(small_vae(latents=4))
    x = torch.randint(0, 2, (5, 1, 3, 3)).float()
    with torch.no_grad():
        log_weights = vae.log_weights(x, None, 6, torch.Generator().manual_seed(1))
        mean, log_variance = vae.net.encode(x, None)
        noise = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(1))
        z = mean + noise * (log_variance / 2).exp()
        expected = (
            vae.net.likelihood.log_prob(vae.net.decode(z, None), x)
            + likelihoods.standard_normal_log_prob(z)
            - likelihoods.diagonal_gaussian_log_prob(z, mean, log_variance)
        )
        torch.testing.assert_close(log_weights, expected)
        monkeypatch.setattr("generative.latent.vae._EVALUATION_ROWS", 10)
        assert vae.log_weights(x, None, 7).shape == (7, 5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic"])
def test_the_probabilities_of_all_images_sum_to_one(likelihood):
    image = TensorSpec((1, 2, 2), torch.float32, 0.0, 1.0, 2)
    model = build_likelihood(likelihood, image)
    every = torch.tensor(np.indices((2, 2, 2, 2)).reshape(4, 16).T).float().reshape(16, 1, 2, 2)
    parameters = torch.randn(1, *model.parameter_shape).expand(16, -1, -1, -1)
    assert float(model.log_prob(parameters, every).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_iwae_of_one_sample_is_the_elbo_with_a_sampled_kl():
    iwae = spread_weights(small_vae(objective="iwae", latents=3))
    x = torch.randint(0, 2, (4, 1, 3, 3)).float()
    noise = torch.randn(1, 4, 3)
    loss = iwae.loss(Encoded(x, torch.zeros(4).long(), noise, torch.tensor(1.0))).value
    mean, log_variance = iwae.net.encode(x, None)
    z = mean + noise * (log_variance / 2).exp()
    sampled_kl = likelihoods.diagonal_gaussian_log_prob(z, mean, log_variance) - likelihoods.standard_normal_log_prob(z)
    elbo = iwae.net.likelihood.log_prob(iwae.net.decode(z, None), x) - sampled_kl
    torch.testing.assert_close(loss, -elbo.mean())


def test_the_analytic_loss_agrees_with_the_sampled_one_in_the_mean():
    vae = spread_weights(small_vae(latents=2))
    x, y = torch.randint(0, 2, (3, 1, 3, 3)).float(), torch.zeros(3).long()
    with torch.no_grad():
        analytic = float(vae.loss(Encoded(x, y, torch.randn(20_000, 3, 2), torch.tensor(1.0))).value)
        sampled = -float(vae.log_weights(x, None, 20_000).mean())
    assert analytic == pytest.approx(sampled, abs=0.05)


def test_beta_weighs_the_kl_and_warms_up():
    vae = small_vae(beta=4.0, beta_warmup=0.5)
    x, y, noise = torch.rand(3, 1, 3, 3), torch.zeros(3).long(), torch.randn(1, 3, 1)
    free = vae.loss(Encoded(x, y, noise, torch.tensor(0.0))).value
    full, metrics, _ = vae.loss(Encoded(x, y, noise, torch.tensor(4.0)))
    torch.testing.assert_close(full - free, 4 * metrics["kl_nats"])
    for progress, expected in ((0.0, 0.0), (0.25, 2.0), (0.5, 4.0), (1.0, 4.0)):
        vae.set_progress(progress)
        assert float(vae._beta) == pytest.approx(expected)


def test_free_nats_stop_the_gradient_of_a_small_kl():
    x, y, noise = torch.rand(8, 1, 3, 3), torch.zeros(8).long(), torch.randn(1, 8, 1)
    vae = small_vae(free_nats=100.0)
    mean, log_variance = vae.net.encode(x, None)
    z = mean + noise * (log_variance / 2).exp()
    distortion = -vae.net.likelihood.log_prob(vae.net.decode(z, None), x).mean()
    loss = vae.loss(Encoded(x, y, noise, torch.tensor(1.0))).value
    torch.testing.assert_close(loss, distortion + 100.0)
    ours = torch.autograd.grad(loss, vae.net.posterior.weight)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(distortion, vae.net.posterior.weight)[0])


def test_the_loss_has_the_gradient_of_finite_differences():
    vae = spread_weights(small_vae(latents=2)).double()
    x, y, noise = torch.rand(3, 1, 3, 3).double(), torch.zeros(3).long(), torch.randn(1, 3, 2).double()
    weight = vae.net.posterior.weight
    (gradient,) = torch.autograd.grad(vae.loss(Encoded(x, y, noise, torch.tensor(1.0))).value, weight)
    with torch.no_grad():
        for index in ((0, 0), (3, 5)):
            values = []
            for step in (1e-5, -2e-5):
                weight[index] += step
                values.append(float(vae.loss(Encoded(x, y, noise, torch.tensor(1.0))).value))
            weight[index] += 1e-5
            assert float(gradient[index]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("decoder", [MlpDecoder(), ConvDecoder(), ResNetDecoder(channels=(8, 8))])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10)])
def test_decoders_give_images_of_the_shape(decoder, shape):
    assert decoder.build((5,), shape)(torch.randn(2, 5)).shape == (2, *shape)


@pytest.mark.parametrize("backbone", ["mlp", "lenet", "resnet", "lstm", "dcgan"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "logistic"])
def test_every_backbone_and_likelihood_trains(backbone, likelihood):
    data = ImageData(name="digits", batch_size=16, batches_per_step=2, num_train=32).build(0)
    vae = VAEConfig(backbone=BackboneConfig(name=backbone), likelihood=likelihood, latents=4).build(data.spec)
    before = vae.net.posterior.weight.clone()
    metrics = vae.training_step(data.next_chunk())
    assert all(math.isfinite(float(value)) for value in metrics.values())
    assert not torch.equal(before, vae.net.posterior.weight)
    assert vae.sample(3).shape == (3, 1, 8, 8)


def test_a_conditional_vae_uses_the_class():
    vae = small_vae(conditional=True)
    z = torch.zeros(2, 1)
    images = vae.images_of(z, torch.tensor([0, 2]))
    assert not torch.equal(images[0], images[1])
    labels = torch.tensor([1, 1, 2])
    again = [vae.sample(3, labels=labels, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    torch.testing.assert_close(again[0], again[1])
    with pytest.raises(UserError, match="class 3"):
        vae.sample(1, labels=torch.tensor([3]))


def test_interpolation_begins_and_ends_at_samples():
    vae = spread_weights(small_vae(latents=3))
    rows = vae.interpolate(2, 5, generator=torch.Generator().manual_seed(0))
    ends = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
    assert rows.shape == (2, 5, 1, 3, 3)
    torch.testing.assert_close(rows[:, 0], vae.images_of(ends[0], None))
    torch.testing.assert_close(rows[:, -1], vae.images_of(ends[1], None))


def test_evaluation_reports_bits_only_where_pixels_are_discrete():
    data = ImageData(name="digits").build(0)
    with torch.no_grad():
        logistic = VAEConfig(likelihood="logistic", latents=2, eval_samples=2).build(data.spec).evaluate(data)
        gaussian = VAEConfig(likelihood="gaussian", latents=2, eval_samples=2).build(data.spec).evaluate(data)
    assert logistic["eval/bits_per_dim"] == pytest.approx(logistic["eval/nll_nats"] / (64 * math.log(2)))
    assert "eval/bits_per_dim" not in gaussian
    assert logistic["eval/nll_nats"] <= -logistic["eval/elbo_nats"] + 1.0


@pytest.mark.slow
def test_training_raises_the_likelihood():
    data = ImageData(name="digits", batch_size=64, batches_per_step=50).build(0)
    vae = VAEConfig(likelihood="logistic", latents=8).build(data.spec)
    with torch.no_grad():
        before = vae.evaluate(data)["eval/elbo_nats"]
    for _ in range(8):
        vae.training_step(data.next_chunk())
    with torch.no_grad():
        after = vae.evaluate(data)["eval/elbo_nats"]
    assert before < -150 < -125 < after


def test_a_traversal_moves_one_latent_that_is_used_from_minus_three_to_three(monkeypatch):
    vae = small_vae(latents=3)
    seen = []
    decode = vae.net.decode
    monkeypatch.setattr(vae.net, "decode", lambda z, y: seen.append(z) or decode(z, y))
    codes = torch.tensor([[0.5, 0.1, -0.2], [2.5, 0.1, 1.0], [-2.5, 0.1, -1.0]])
    assert vae.traversal(codes, None, num=2).shape == (2 * 9, 1, 3, 3)
    z = seen[0].view(2, 9, 3)
    for row, latent in ((0, 0), (1, 2)):
        torch.testing.assert_close(z[row, :, latent], torch.linspace(-3, 3, 9))
        others = [i for i in range(3) if i != latent]
        torch.testing.assert_close(z[row][:, others], codes[0, others].expand(9, -1))


@pytest.mark.parametrize("conditional", [False, True])
def test_pictures_show_the_latent_space(conditional):
    data = ImageData(name="digits").build(0)
    vae = VAEConfig(likelihood="logistic", latents=4, conditional=conditional).build(data.spec).eval()
    with torch.no_grad():
        pictures = vae.pictures(data)
    assert set(pictures) == {"samples", "interpolation", "neighbours", "reconstructions", "latent_map", "traversal"}
    assert pictures["traversal"].shape == (4 * 58 + 2, 9 * 58 + 2)
    assert pictures["latent_map"].shape == (600, 600, 3)


def test_the_test_split_gets_distances_beside_the_likelihood(monkeypatch):
    data = ImageData(name="digits", binarize="threshold").build(0)
    vae = VAEConfig(latents=2, eval_samples=2).build(data.spec).eval()
    seen = []
    monkeypatch.setattr(
        "generative.learner.distribution_metrics", lambda images, *_, **k: seen.append(images) or {"eval/lenet": 1.0}
    )
    with torch.no_grad():
        assert "eval/lenet" not in vae.evaluate(data, "val")
        assert vae.evaluate(data, "test")["eval/lenet"] == 1.0
    assert seen[0].shape == (vae.distance_images, 1, 8, 8)
    assert seen[0].unique().tolist() == [0.0, 1.0]  # bits are compared with bits
