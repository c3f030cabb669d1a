import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from generative.autoregressive.pixelcnn import PixelCNNConfig
from generative.decoders import ConvDecoder, MlpDecoder
from generative.latent import codebook
from generative.latent.code_data import CodeData
from generative.latent.codebook import Codebook, k_means, straight_through
from generative.latent.vq_vae import VQVAEConfig
from lab.backbones import BackboneConfig
from lab.config.overrides import resolve
from lab.data.images import ImageData
from lab.data.resident import Batch
from lab.data.spec import DataSpec, TensorSpec
from lab.data.targets import Classes
from lab.errors import UserError
from lab.runs import checkpoint
from lab.runs.directory import Run
from lab.training.restore import restore
from lab.training.train import resume, train

BITS = DataSpec(TensorSpec((1, 4, 4), torch.float32, 0.0, 1.0, 2), target=Classes(3))


@pytest.fixture(autouse=True)
def _seed(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    torch.manual_seed(0)


def small(spec=BITS, **options):
    options = {
        "backbone": BackboneConfig(name="dcgan", channels=(8,), flatten=False),
        "decoder": ConvDecoder(channels=(8,), norm="none"),
        "num_codes": 6,
        "code_size": 3,
    } | options
    return VQVAEConfig(**options).build(spec)


def codebook_of(vectors, **options):
    book = Codebook(*vectors.shape, **{"decay": 0.9, "restart": 0.0, **options})
    book.vectors.copy_(vectors)
    book.sums.copy_(vectors)
    book.started.fill_(True)
    return book


def test_the_nearest_code_is_that_of_a_slow_loop():
    book, flat = codebook_of(torch.randn(7, 3)), torch.randn(40, 3)
    slow = [min(range(7), key=lambda k, v=v: float((v - book.vectors[k]).square().sum())) for v in flat]
    assert book.nearest(flat).tolist() == slow


def test_the_straight_through_gradient_is_that_of_the_decoder_at_the_codes():
    vectors, quantized = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    out = straight_through(vectors, quantized)
    torch.testing.assert_close(out.detach(), quantized)
    (out**2).sum().backward()
    torch.testing.assert_close(vectors.grad, 2 * quantized)


def test_the_loss_has_the_gradient_that_the_paper_defines():
    model = small(commitment=0.7)
    x = torch.randint(0, 2, (4, 1, 4, 4)).float()
    batch = Batch(x, torch.zeros(4).long())
    model.update(batch)
    weight = model.net.to_code.weight
    (gradient,) = torch.autograd.grad(model.loss(batch).value, weight)
    # the decoder's gradient at the codes, passed on to the encoder's vectors, and the pull towards the codes
    vectors = model.net.encode(x)
    quantized = model.codebook.look_up(model.encode(x)).requires_grad_()
    distortion = -model.net.likelihood.log_prob(model.net.decoder(quantized), x).mean()
    (at_codes,) = torch.autograd.grad(distortion, quantized)
    pull = 2 * 0.7 * (vectors - quantized).detach() / len(x)
    (expected,) = torch.autograd.grad(vectors, weight, at_codes + pull)
    torch.testing.assert_close(gradient, expected)


def test_the_codebook_follows_running_means_by_hand():
    start = torch.tensor([[0.0, 0.0], [4.0, 4.0]])
    book = codebook_of(start, decay=0.75)
    flat = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 3.0]])
    book.follow(flat, book.nearest(flat))
    counts = 0.75 * torch.ones(2) + 0.25 * torch.tensor([2.0, 1.0])
    sums = 0.75 * start + 0.25 * torch.tensor([[1.0, 1.0], [5.0, 3.0]])
    torch.testing.assert_close(book.counts, counts)
    torch.testing.assert_close(book.vectors, sums / counts[:, None])


def test_the_codebook_takes_vectors_of_half_precision():
    start = torch.tensor([[0.0, 0.0], [4.0, 4.0]])
    flat = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 3.0]])
    books = [codebook_of(start, decay=0.75) for _ in range(2)]
    for book, vectors in zip(books, (flat, flat.bfloat16()), strict=True):
        book.follow(vectors, book.nearest(flat))
    torch.testing.assert_close(books[1].vectors, books[0].vectors)  # small whole numbers are exact
    books[1].start(flat.bfloat16())
    assert books[1].vectors.dtype == torch.float32


def test_the_codebook_converges_to_the_means_of_what_is_assigned():
    book = codebook_of(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), decay=0.9)
    for _ in range(200):
        flat = torch.cat([torch.randn(500, 2) * 0.1 + torch.tensor([-3.0, 1.0]), torch.randn(500, 2) * 0.1 + 2.0])
        book.follow(flat, book.nearest(flat))
    torch.testing.assert_close(book.vectors, torch.tensor([[-3.0, 1.0], [2.0, 2.0]]), atol=0.02, rtol=0)


def test_unused_codes_start_anew_at_vectors_of_the_minibatch_and_used_ones_stay():
    far = torch.full((3, 2), 100.0)
    book = codebook_of(torch.cat([torch.zeros(1, 2), far]), decay=0.5, restart=0.1)
    flat = torch.randn(64, 2)
    for _ in range(8):
        book.follow(flat, book.nearest(flat))
    assert float(book.vectors.abs().max()) < 5
    assert len(book.nearest(flat).unique()) == 4
    left = codebook_of(torch.cat([torch.zeros(1, 2), far]), decay=0.5, restart=0.0)
    for _ in range(8):
        left.follow(flat, left.nearest(flat))
    assert left.nearest(flat).unique().tolist() == [0]


def follow_on_a_rank(rank, folder):
    """One of two ranks: a start and ten steps on its half of the vectors."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(rank)
    book = Codebook(8, 2, decay=0.5, restart=0.2)
    flat = torch.load(folder / "vectors.pt", weights_only=True)
    book.start(flat[rank::2])
    for _ in range(10):
        book.follow(flat[rank::2], book.nearest(flat[rank::2]))
    torch.save(book.state_dict(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_share_one_codebook_of_all_their_vectors(tmp_path):
    flat = torch.cat([torch.randn(200, 2) * 0.1 + 3, torch.randn(200, 2) * 0.1 - 3])
    torch.save(flat, tmp_path / "vectors.pt")
    torch.multiprocessing.start_processes(follow_on_a_rank, (tmp_path,), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    alone = codebook_of(first["vectors"], decay=0.5, restart=0.0)
    alone.counts.copy_(first["counts"])
    alone.sums.copy_(first["sums"])
    alone.follow(flat, alone.nearest(flat))
    torch.testing.assert_close(alone.counts.sum(), torch.tensor(400.0), atol=2.0, rtol=0)


def test_k_means_finds_separate_clusters():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    points = (centres[:, None] + 0.1 * torch.randn(4, 50, 2)).flatten(0, 1)
    means = k_means(points, 4)
    assert float(torch.cdist(centres, means).min(1).values.max()) < 0.1


def test_the_codebook_starts_from_k_means_on_the_first_minibatch(monkeypatch):
    asked = []
    monkeypatch.setattr(codebook, "k_means", lambda points, num: asked.append(points) or points[:num].clone())
    model = small()
    x = torch.rand(8, 1, 4, 4)
    with torch.no_grad():
        first = codebook.flattened(model.net.encode(x))
    for _ in range(3):
        model.update(Batch(x, torch.zeros(8).long()))
    assert len(asked) == 1
    torch.testing.assert_close(asked[0], first)


def test_an_encoder_without_a_map_and_a_decoder_of_another_size_are_said():
    with pytest.raises(UserError, match="flatten=false"):
        small(backbone=BackboneConfig(name="mlp"))
    with pytest.raises(UserError, match="one entry for each halving"):
        small(decoder=ConvDecoder(channels=(8, 8)))
    assert small(decoder=MlpDecoder(hidden=(8,))).decode(torch.zeros(2, 2, 2).long()).shape == (2, 1, 4, 4)


@pytest.mark.slow
def test_training_raises_the_bound_and_uses_the_codes():
    data = ImageData(name="digits", batch_size=64, batches_per_step=20).build(0)
    model = resolve("vq-vae/digits", []).module.build(data.spec)
    for _ in range(3):
        model.training_step(data.next_chunk())
    model.eval()
    with torch.no_grad():
        metrics = model.evaluate(data)
    assert metrics["eval/used_codes"] > 15
    assert metrics["eval/distortion_nats"] < 120
    rate = 16 * np.log(32)
    assert metrics["eval/elbo_nats"] == pytest.approx(-metrics["eval/distortion_nats"] - rate)


# ---------------------------------------------------------------------- the prior over its codes

TINY = ["tracking.mode=disabled", "trainer.budget=512", "data.batch_size=64", "data.batches_per_step=4"]
TINY_PRIOR = ["module.backbone.channels=8", "module.backbone.layers=2", "module.hidden=8"]


@pytest.fixture(scope="module")
def vq_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "vq"
    return train(resolve("vq-vae/digits", [*TINY, "module.backbone.channels=[8]"]), run_dir=folder).run.path


@pytest.fixture(scope="module")
def prior_run(vq_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "prior"
    experiment = resolve("vq-vae/digits-prior", [*TINY, *TINY_PRIOR, f"data.run={vq_run}"])
    return train(experiment, run_dir=folder).run.path


def test_codes_as_data_are_the_encoders_codes_with_the_images_classes(vq_run):
    data = CodeData(run=str(vq_run), batch_size=8).build(0)
    _, images, model, _ = restore(Run.open(vq_run))
    x, y = next(iter(images.batches("val", 50)))
    codes, labels = next(iter(data.batches("val", 50)))
    with torch.no_grad():
        expected = model.encode(x)
        again = model.net.likelihood.mean(model.decode(expected))
    assert torch.equal((codes[:, 0] * 31).round().long(), expected)
    assert torch.equal(labels, y)
    torch.testing.assert_close(data.to_images(codes), again)
    assert data.spec.inputs.shape == (1, 4, 4)
    assert data.spec.inputs.levels == 32
    assert data.spec.target == images.spec.target


@pytest.mark.slow
def test_a_prior_is_sampled_through_the_decoder(lab, prior_run, tmp_path):
    done = lab("sample", prior_run, "--n", 6, "--class", "3,7", "--out", tmp_path / "a.npz")
    assert done.code == 0, done.err
    images = np.load(tmp_path / "a.npz")["images"]
    assert images.shape == (6, 1, 8, 8)
    assert len(np.unique(images)) > 17  # not the codes themselves
    done = lab("sample", prior_run, "--n", 4, "--out", tmp_path / "a.png")
    assert done.code == 0, done.err
    assert Image.open(tmp_path / "a.png").size == (118, 118)


@pytest.mark.slow
def test_a_prior_is_evaluated_on_codes_and_on_images(lab, prior_run):
    done = lab("evaluate", prior_run, "--json")
    assert done.code == 0, done.err
    metrics = json.loads(done.out)["metrics"]
    assert 0 < metrics["eval/nll_nats"] < 16 * np.log(32) * 1.2
    assert metrics["eval/lenet_frechet_distance"] > metrics["eval/lenet_frechet_floor"] > 0


@pytest.mark.slow
def test_a_resumed_prior_refuses_another_vq_vaes_codes(prior_run, vq_run, tmp_path):
    content = checkpoint.load(Run.open(prior_run).last)
    data = CodeData(run=str(vq_run)).build(0)
    assert data.digest() == content["data_digest"]
    shutil.copytree(prior_run, tmp_path / "run")
    checkpoint.save(tmp_path / "run" / "checkpoints" / "last.ckpt", content | {"data_digest": "0" * 8})
    with pytest.raises(UserError, match="have changed since its last checkpoint"):
        resume(tmp_path / "run")


def test_a_run_that_is_none_or_no_vq_vae_is_said(lab, prior_run, tmp_path):
    done = lab("train", "vq-vae/digits-prior", f"data.run={tmp_path}/nowhere")
    assert done.code == 2
    assert "must be the run directory of a trained VQ-VAE" in done.err
    done = lab("train", "vq-vae/digits-prior", f"data.run={prior_run}")
    assert done.code == 2
    assert "codes come from a vq_vae" in done.err


def test_a_backbone_of_other_levels_is_refused(vq_run):
    data = CodeData(run=str(vq_run)).build(0)
    with pytest.raises(UserError, match="levels"):
        PixelCNNConfig(backbone=BackboneConfig(name="symbol_pixelcnn", levels=16)).build(data.spec)
