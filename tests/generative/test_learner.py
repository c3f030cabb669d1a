"""What generative models share: great arcs, and the models whose images are a function of latents."""

import pytest
import torch

from generative.adversarial.gan import GANConfig
from generative.decoders import MlpDecoder
from generative.latent.helmholtz import HelmholtzConfig
from generative.latent.hierarchical_vae import HierarchicalVAEConfig
from generative.latent.vae import VAEConfig
from generative.learner import LatentImageModel, slerp
from lab.backbones import BackboneConfig
from lab.data.spec import DataSpec, TensorSpec
from lab.data.targets import Classes
from lab.errors import UserError

BITS = DataSpec(TensorSpec((1, 4, 4), torch.float32, 0.0, 1.0, 2), target=Classes(3))
SMALL = {"backbone": BackboneConfig(name="mlp", hidden=(8,)), "decoder": MlpDecoder(hidden=(8,)), "latents": 3}
MODELS = {
    "vae": (VAEConfig(**SMALL, conditional=True), 3),
    "hierarchical_vae": (HierarchicalVAEConfig(**SMALL, top_latents=2, conditional=True), 5),
    "gan": (GANConfig(**SMALL, conditional=True), 3),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    config, num_latents = MODELS[request.param]
    built = config.build(BITS).eval()
    assert isinstance(built, LatentImageModel)
    assert built.num_latents == num_latents
    return built


def test_samples_are_the_images_of_latents_of_the_temperatures_spread(model):
    labels = torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        z = torch.randn(4, model.num_latents, generator=generator())
        for temperature in (1.0, 0.5, 0.0):
            images = model.sample(4, labels=labels, temperature=temperature, generator=generator())
            torch.testing.assert_close(images, model.images_of(temperature * z, labels))
    assert images.shape == (4, 1, 4, 4)
    assert torch.equal(images[0], images[3])
    assert not torch.equal(images[0], images[1])


def test_a_row_of_an_interpolation_has_one_class_and_ends_at_samples(model):
    with torch.no_grad():
        rows = model.interpolate(2, 5, generator=generator())
        noise = generator()
        labels = torch.randint(3, (2,), generator=noise)
        ends = torch.randn(2, 2, model.num_latents, generator=noise)
        torch.testing.assert_close(rows[:, 0], model.images_of(ends[0], labels))
        torch.testing.assert_close(rows[:, -1], model.images_of(ends[1], labels), atol=1e-5, rtol=1e-4)


def test_the_exported_network_makes_the_images(model):
    exportable = model.exportable(None)
    assert exportable.name == model.image_net_name
    z, labels = torch.randn(2, model.num_latents), torch.tensor([2, 1])
    with torch.no_grad():
        torch.testing.assert_close(exportable.network(z, labels), model.images_of(z, labels))
    parameters = {p.data_ptr() for p in exportable.network.parameters()}
    assert parameters == {p.data_ptr() for p in model.image_net.parameters()}


def test_a_model_without_latents_has_no_interpolation():
    with pytest.raises(UserError, match=r"module.kind='helmholtz' has no latent space"):
        HelmholtzConfig(layers=(3,)).build(BITS).interpolate(1, 2)


def test_slerp_keeps_the_length_between_vectors_of_one_length():
    a, b = torch.nn.functional.normalize(torch.randn(2, 5, 8), dim=2)
    points = slerp(3 * a, 3 * b, 7)
    torch.testing.assert_close(points.norm(dim=2), torch.full((5, 7), 3.0))
    torch.testing.assert_close(points[:, 0], 3 * a)
    torch.testing.assert_close(points[:, -1], 3 * b)
    steps = (points[:, 1:] - points[:, :-1]).norm(dim=2)
    torch.testing.assert_close(steps, steps[:, :1].expand(-1, 6), rtol=1e-3, atol=1e-4)
