"""timm's networks as backbones: as timm itself computes, where it is installed; a sentence where it is not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.backbones import BackboneConfig, build_backbone
from lab.backbones.features import Features
from lab.config.overrides import resolve
from lab.errors import UserError
from lab.runs import checkpoint
from lab.training.train import train


@pytest.fixture
def timm() -> Any:
    return pytest.importorskip("timm", exc_type=Exception)


def test_without_timm_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch, lab: Any) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    done = lab("show", "classifier/digits-cnn", "module.backbone.name=timm:no_such_net")
    assert done.code == 2
    assert "backbone 'timm:no_such_net' needs timm: pip install 'lab[timm]'." in done.err


def test_a_timm_that_does_not_fit_this_torch_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lab: Any) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    done = lab("show", "backbone", "timm:resnet18")
    assert (done.code, "(operator torchvision::nms does not exist); it takes a torchvision" in done.err) == (2, True)


def test_a_name_of_another_library_is_no_module_to_import() -> None:
    assert resolve("classifier/digits-cnn", ["data.name=hub:mnist"]).data.name == "hub:mnist"


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_vector_and_maps_are_timms(timm: Any, channels: int) -> None:
    x = torch.rand(2, channels, 64, 64)
    config = BackboneConfig("timm:resnet18")
    vector, maps, last = (Features(config, x.shape[1:], kind).eval() for kind in ("vector", "pyramid", "map"))
    theirs = timm.create_model("resnet18", num_classes=0, in_chans=channels).eval()
    several = timm.create_model("resnet18", features_only=True, in_chans=channels).eval()
    for ours in (vector, maps, last):
        theirs.load_state_dict(ours.backbone.net.model.state_dict())
        several.load_state_dict(theirs.state_dict())
        assert ours.spec.kind == ours.kind
    with torch.no_grad():
        for each, expected in zip(maps(x), several(x), strict=False):
            assert each.shape[1:] == expected.shape[1:]
        several.load_state_dict(maps.backbone.net.model.state_dict())
        torch.testing.assert_close(maps(x), tuple(several(x)))
        theirs.load_state_dict(vector.backbone.net.model.state_dict())
        torch.testing.assert_close(vector(x), theirs(x))
        assert last(x).shape == (2, 512, 2, 2)
    assert maps.spec.strides == tuple(several.feature_info.reduction()) == (2, 4, 8, 16, 32)
    assert [shape[0] for shape in maps.spec.shapes] == several.feature_info.channels()
    assert vector.spec.shapes == ((512,),)


@pytest.mark.slow
def test_a_transformer_is_built_for_the_size_of_its_input(timm: Any) -> None:
    features = Features(BackboneConfig("timm:vit_tiny_patch16_224"), (3, 32, 48), "pyramid").eval()
    assert (features.spec.shapes, features.spec.strides) == (((192, 2, 3),), (16,))
    assert features(torch.zeros(2, 3, 32, 48))[0].shape == (2, 192, 2, 3)


@pytest.mark.slow
def test_what_it_cannot_do_is_said(timm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("resnet_18", "hf-hub:somebody/net"):
        with pytest.raises(ValueError, match="unknown model of timm"):
            BackboneConfig(f"timm:{name}")
    with pytest.raises(ValueError, match=r"unknown option of backbone 'timm:resnet18' 'hidden'"):
        BackboneConfig("timm:resnet18", hidden=3)
    with pytest.raises(UserError, match="it needs an image"):
        build_backbone(BackboneConfig("timm:resnet18"), (8,))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def offline(*_: Any, **options: Any) -> Any:
        assert options["pretrained"]
        raise OSError("no route to host")

    net: Any = build_backbone(BackboneConfig("timm:resnet18", pretrained=True), (3, 64, 64)).net
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"cannot be fetched \(no route to host\); without a network"):
        net.load_pretrained()


@pytest.mark.slow
def test_a_run_learns_with_it_and_another_begins_with_its_trunk(timm: Any, tmp_path: Path) -> None:
    words = ["trainer.budget=64", "data.batch_size=32", "data.batches_per_step=1", "trainer.eval_period=64"]
    words += ["tracking.mode=disabled", "trainer.device=cpu", "module.backbone.name=timm:resnet18"]
    first = train(resolve("classifier/digits-cnn", words), run_dir=tmp_path / "first").run
    chosen = [f"module.backbone.from_run={first.path}", "module.backbone.frozen=true"]
    second = train(resolve("classifier/digits-cnn", [*words, *chosen]), run_dir=tmp_path / "second").run
    one, other = (checkpoint.load(run.checkpoint("best"))["state_dict"] for run in (first, second))
    names = [name for name in one if "backbone" in name]
    assert len(names) > 100
    assert all(torch.equal(one[name], other[name]) for name in names)


@pytest.mark.slow
def test_weights_of_timm_come_once_as_a_run_begins(timm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create, asked = timm.create_model, []

    def given(name: str, pretrained: bool = False, **options: Any) -> Any:
        asked.append(pretrained)
        model = create(name, **options)
        if pretrained:
            torch.nn.init.constant_(model.conv1.weight, 0.5)
        return model

    monkeypatch.setattr(timm, "create_model", given)
    words = ["trainer.budget=64", "data.batch_size=32", "data.batches_per_step=1", "trainer.eval_period=64"]
    words += [
        "tracking.mode=disabled",
        "trainer.device=cpu",
        "module.backbone={name: timm:resnet18, pretrained: true, frozen: true}",
    ]
    run = train(resolve("classifier/digits-cnn", words), run_dir=tmp_path / "run").run
    assert asked.count(True) == 1
    assert bool((checkpoint.load(run.last)["state_dict"]["net.features.backbone.net.model.conv1.weight"] == 0.5).all())
    assert "begins with timm's weights of resnet18" in (run.path / "log.txt").read_text()
    assert run.result()["begun_with"] == [{"field": "module.backbone.pretrained", "timm": "resnet18"}]
