import pytest
import torch

from generative.latent.autoencoder import AutoencoderConfig
from lab.data.images import ImageData
from lab.engine.optimizers import OptimizerConfig, ScheduleConfig
from lab.engine.total_variation import total_variation


@pytest.fixture(scope="module")
def data():
    return ImageData(name="digits", batch_size=64, batches_per_step=20).build(0)


def build(data, **options):
    torch.manual_seed(0)
    return AutoencoderConfig(**{"layers": (32, 16, 8), **options}).build(data.spec)


def test_a_layers_pretraining_changes_that_layer_alone(data):
    model = build(data, pretraining=0.6)
    for progress, layer in ((0.1, 0), (0.3, 1), (0.5, 2)):
        before = [[p.detach().clone() for p in each.parameters()] for each in model.layers]
        model.set_progress(progress)
        assert model.phase()[0] == layer
        model.training_step(data.next_chunk())
        changed = [
            any(not torch.equal(a, b) for a, b in zip(old, each.parameters(), strict=True))
            for old, each in zip(before, model.layers, strict=True)
        ]
        assert changed == [i == layer for i in range(3)]
    model.set_progress(0.8)
    phase, within = model.phase()
    assert phase is None
    assert within == pytest.approx(0.5)


def test_evaluations_lower_the_rate_of_their_phase_alone_and_rates_name_parameters_of_the_whole(data):
    plateau = ScheduleConfig(name="plateau", patience=1, gamma=0.5)
    model = build(data, pretraining=0.6, optimizer=OptimizerConfig(schedule=plateau, rates={"2.*": 0.0}))
    model.set_progress(0.3)
    model.follow_evaluation(1.0)
    model.follow_evaluation(1.0)
    assert [updater.plateau.factor for updater in model.updaters.values()] == [1.0, 0.5, 1.0, 1.0]
    assert not any(name.startswith("2.") for name in model.updater.names)
    assert len(model.layer_updaters[2].names) == len(list(model.layers[2].parameters()))


def test_a_single_linear_layer_comes_near_the_principal_components(data):
    # a code of 8 numbers explains at most what the first 8 principal components do, up to the sigmoid's bend
    model = build(data, layers=(8,))
    model.updater.set_progress(0.0)
    for group in model.updater.optimizer.param_groups:
        group["lr"] = 3e-3
    for _ in range(40):
        model.training_step(data.next_chunk())
    x = torch.cat([x for x, _ in data.batches("val")]).flatten(1)
    values = torch.linalg.svdvals(x - x.mean(0)).square()
    best = float(values[:8].sum() / values.sum())
    with torch.no_grad():
        explained = model.evaluate(data)["eval/explained_variance"]
    assert best - 0.15 < explained < best + 0.08


def test_masking_sets_its_share_to_zero_and_keeps_the_rest(data):
    model = build(data, masking=0.25)
    x = torch.ones(200, 1, 8, 8)
    corrupted = model._corrupted(x)
    assert set(corrupted.unique().tolist()) == {0.0, 1.0}
    assert float(corrupted.mean()) == pytest.approx(0.75, abs=0.02)
    assert torch.equal(build(data)._corrupted(x), x)


def test_evaluation_by_hand(data):
    model = build(data)
    x = torch.cat([x for x, _ in data.batches("val")])
    with torch.no_grad():
        expected = float((model.reconstruct(x) - x).square().sum() / len(x))
        metrics = model.evaluate(data)
        model.pictures(data)
    assert metrics["eval/squared_error"] == pytest.approx(expected, rel=1e-5)


def test_total_variation_is_weighed_into_the_loss_of_images(data):
    batch = next(iter(data.next_chunk()))
    plain, smooth = build(data), build(data, total_variation=0.5)
    error, both = plain.loss(batch), smooth.loss(batch)
    variation = total_variation(plain.reconstruct(batch.x)).mean()
    assert float(both.value) == pytest.approx(float(error.value + 0.5 * variation), rel=1e-5)
    assert float(both.metrics["squared_error"]) == pytest.approx(float(error.value), rel=1e-5)
    assert float(both.metrics["total_variation"]) == pytest.approx(float(variation), rel=1e-5)
