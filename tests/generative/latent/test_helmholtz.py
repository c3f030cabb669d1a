import itertools

import pytest
import torch

from generative.latent.helmholtz import Fantasies, HelmholtzConfig, Pixels, bits_log_prob
from generative.likelihoods import importance_weighted_bound
from lab.data.images import ImageData
from lab.data.spec import DataSpec, TensorSpec
from lab.data.targets import Classes
from lab.errors import UserError

BITS = DataSpec(TensorSpec((1, 2, 2), torch.float32, 0.0, 1.0, 2), target=Classes(2))


def small(spec=BITS, layers=(3, 2)):
    torch.manual_seed(0)
    model = HelmholtzConfig(layers=layers).build(spec)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.6 * torch.randn_like(p))
    return model


def every(num):
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=num)))


def exact_log_px(model, x):
    """log p(x) (B,) by summing over all hidden states."""
    terms = [
        model.log_joint([x, h1.expand(len(x), -1), h2.expand(len(x), -1)])
        for h1, h2 in itertools.product(every(3), every(2))
    ]
    return torch.logsumexp(torch.stack(terms), 0)


def test_the_probabilities_of_all_images_sum_to_one():
    assert float(exact_log_px(small(), every(4)).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_the_importance_weighted_likelihood_converges_to_the_sum_over_states():
    model, x = small(), every(4)
    with torch.no_grad():
        estimate = importance_weighted_bound(model.log_weights(x.view(-1, 1, 2, 2), 20_000).double(), dim=0)
        exact = exact_log_px(model, x).double()
    torch.testing.assert_close(estimate, exact, atol=0.1, rtol=0)


def test_dreams_follow_the_generative_distribution():
    model = small()
    with torch.no_grad():
        images = model.dream(40_000)[0]
        frequency = torch.bincount((images * torch.tensor([8.0, 4, 2, 1])).sum(1).long(), minlength=16) / 40_000
        torch.testing.assert_close(frequency, exact_log_px(model, every(4)).exp(), atol=0.012, rtol=0)


def test_wake_changes_generation_alone_and_sleep_recognition_alone():
    model = small()
    for updater, batch, trained, fixed in (
        (model.wake_updater, Pixels(every(4)), model.generation, model.recognition),
        (model.sleep_updater, Fantasies(torch.cat(model.dream(8), -1)), model.recognition, model.generation),
    ):
        before = [[p.detach().clone() for p in part.parameters()] for part in (trained, fixed)]
        updater.step(batch)
        assert any(not torch.equal(a, b) for a, b in zip(before[0], trained.parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(before[1], fixed.parameters(), strict=True))


def test_bits_log_prob_by_hand():
    logits, bits = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])
    expected = torch.tensor(0.5).log() + (1 - torch.sigmoid(torch.tensor(2.0))).log()
    torch.testing.assert_close(bits_log_prob(logits, bits), expected)


@pytest.mark.slow
def test_wake_sleep_raises_the_likelihood_of_digits_and_refuses_grey():
    data = ImageData(name="digits", binarize="threshold", batch_size=64, batches_per_step=50).build(0)
    torch.manual_seed(0)
    model = HelmholtzConfig(layers=(32, 8), eval_samples=10).build(data.spec)
    with torch.no_grad():
        before = model.evaluate(data)["eval/nll_nats"]
    for _ in range(6):
        model.training_step(data.next_chunk())
    with torch.no_grad():
        after = model.evaluate(data)["eval/nll_nats"]
        images = model.sample(3, generator=torch.Generator().manual_seed(0))
    assert before > 40 > 32 > after
    assert images.shape == (3, 1, 8, 8)
    with pytest.raises(UserError, match="binary pixels"):
        HelmholtzConfig().build(ImageData(name="digits").build(0).spec)
