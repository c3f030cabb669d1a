import math

import pytest
import torch

from generative import likelihoods
from generative.decoders import MlpDecoder
from generative.latent.hierarchical_vae import HierarchicalVAEConfig
from lab.backbones import BackboneConfig
from lab.data.images import ImageData
from lab.data.spec import DataSpec, TensorSpec
from lab.data.targets import Classes
from lab.errors import UserError

BITS = DataSpec(TensorSpec((1, 3, 3), torch.float32, 0.0, 1.0, 2), target=Classes(3))


def small(spec=BITS, **options):
    torch.manual_seed(0)
    options = {"backbone": BackboneConfig(name="mlp", hidden=(8,)), "decoder": MlpDecoder(hidden=(8,))} | options
    model = HierarchicalVAEConfig(**{"latents": 1, "top_latents": 1, "hidden": (8,), **options}).build(spec)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    return model


def test_the_importance_weighted_likelihood_converges_to_the_double_integral():
    model, x = small(), torch.randint(0, 2, (4, 1, 3, 3)).float()
    grid = torch.linspace(-8, 8, 401)
    z1, z2 = grid[:, None, None], grid[:, None, None]
    with torch.no_grad():
        log_px = model.net.likelihood.log_prob(model.net.decode(z1.expand(-1, 4, -1), None), x)  # (401, 4)
        mean, log_variance = model.net.prior(z2)  # (401, 1, 1)
        log_p1 = likelihoods.diagonal_gaussian_log_prob(z1[:, None], mean[None], log_variance[None])[..., 0]
        log_joint = log_px[:, None] + (log_p1 + likelihoods.standard_normal_log_prob(z2)[:, 0])[..., None]
        exact = torch.logsumexp(log_joint.double().flatten(0, 1), 0) + 2 * math.log(16 / 400)
        estimate = likelihoods.importance_weighted_bound(model.log_weights(x, None, 20_000).double(), dim=0)
    torch.testing.assert_close(estimate, exact, atol=0.03, rtol=0)


def test_samples_of_the_prior_follow_both_layers():
    model = small()
    z = torch.zeros(1, 2)
    mean, _ = model.net.prior(z[:, 1:])
    expected = model.net.likelihood.mean(model.net.decode(mean, None))
    torch.testing.assert_close(model.images_of(z, None), expected)


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_it_trains_and_evaluates(objective):
    data = ImageData(name="digits", batch_size=32, batches_per_step=4).build(0)
    options = {"latents": 4, "top_latents": 2, "likelihood": "logistic", "samples": 2, "eval_samples": 2}
    model = small(data.spec, objective=objective, **options)
    first = model.training_step(data.next_chunk())
    for _ in range(10):
        last = model.training_step(data.next_chunk())
    assert float(last["losses/bound_nats"]) < float(first["losses/bound_nats"])
    with torch.no_grad():
        metrics = model.evaluate(data)
        assert model.sample(3).shape == (3, 1, 8, 8)
    assert metrics["eval/nll_nats"] < 400


def test_free_nats_are_refused():
    with pytest.raises(UserError, match="free_nats"):
        small(free_nats=1.0)
