"""The recorded sampler: a tape does here what a CUDA graph does, the same operators on the same memory."""

import pytest
import torch

from generative.autoregressive.sampling import KnownPixels, SampleRequest, cached, naive
from tests.generative.autoregressive.backbones.causal import CAUSAL
from tests.generative.autoregressive.test_pixelcnn import OUTPUTS, model
from tests.lab.engine.tape import Recorder


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("output", OUTPUTS)
def test_recorded_rows_draw_the_images_of_the_oracle(name, output):
    learner = model(name, (2, 8, 4), 4, output, conditional=True)
    context = learner.net.context(torch.tensor([0, 1, 2]))
    noise = torch.rand(3, learner.net.head.num_noise, 8, 4, dtype=torch.float64)
    request = SampleRequest((2, 8, 4), noise, context, 1.0, None)
    record = Recorder()
    with torch.no_grad():
        drawn = cached(learner.net, request, lambda done, total: None, record)
        expected = naive(learner.net, request, lambda done, total: None)
    period = {"pixelcnn_pp": 2, "pixelsnail": None}.get(name, 1)
    assert record.num_recordings == (period or 0)
    assert record.num_replays == (8 - period if period else 0)
    assert torch.equal(drawn, expected)


def test_threads_are_as_many_as_before_after_sampling():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        model().sample(2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_recorded_rows_keep_known_pixels(temperature):
    learner = model(levels=4, shape=(1, 6, 4))
    known = KnownPixels(torch.full((3, 1, 6, 4), 1 / 3, dtype=torch.float64), torch.rand(3, 1, 6, 4) < 0.4)
    request = SampleRequest((1, 6, 4), torch.rand(3, 1, 6, 4, dtype=torch.float64), None, temperature, known)
    with torch.no_grad():
        drawn = cached(learner.net, request, lambda done, total: None, Recorder())
        expected = naive(learner.net, request, lambda done, total: None)
    assert torch.equal(drawn, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CAUSAL)
def test_cuda_graphs_draw_the_images_of_the_oracle(name):
    learner = model(name, (2, 8, 4), 4).cuda()
    drawn, expected = (
        learner.sample(3, backend=backend, generator=torch.Generator("cuda").manual_seed(0))
        for backend in ("cached", "naive")
    )
    assert torch.equal(drawn, expected)
