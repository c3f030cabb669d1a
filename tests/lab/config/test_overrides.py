"""From what a user types to one frozen experiment, and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from lab.config import serialization
from lab.config.overrides import override, resolve
from lab.errors import UserError
from lab.experiment import DataConfig, Experiment, ModuleConfig

RECIPE = "classifier/digits-cnn"


def test_overrides_reach_every_field_of_a_tree() -> None:
    experiment = resolve(RECIPE)
    flat = serialization.flatten(serialization.dump(experiment))
    changed = {
        "name": "mine",
        "seed": 7,
        "data.batch_size": 32,
        "data.num_train": 100,
        "module.backbone.hidden": 64,
        "module.optimizer.betas": [0.8, 0.9],
        "module.optimizer.schedule.warmup": 0.1,
        "module.optimizer.max_grad_norm": 2.0,
        "trainer.budget": 1234,
        "trainer.num_threads": 1,
        "tracking.mode": "disabled",
        "tracking.tags": ["a", "b"],
    }
    assert set(changed) - {"module.backbone.hidden"} <= set(flat)
    overridden = override(experiment, [f"{key}={value}" for key, value in changed.items()])
    assert serialization.flatten(serialization.dump(overridden)) == {**flat, **changed}


@pytest.mark.parametrize(
    ("text", "value"), [("3e-4", 3e-4), ("1E-3", 1e-3), ("5e-05", 5e-5), ("0.5", 0.5), (".1", 0.1)]
)
def test_numbers_are_read_as_people_write_them(text: str, value: float) -> None:
    experiment = resolve(RECIPE, [f"module.optimizer.lr={text}"])
    assert experiment.module.model_dump()["optimizer"]["lr"] == value


@pytest.mark.parametrize(
    ("text", "value"), [("1e3", 1000), ("2.5E3", 2500), ("1e+06", 1_000_000), ("1_000", 1000), ("7", 7)]
)
def test_whole_numbers_may_have_an_exponent(text: str, value: int) -> None:
    assert resolve(RECIPE, [f"trainer.budget={text}"]).trainer.budget == value


def test_words_that_look_like_numbers_stay_words_in_files(tmp_path: Path) -> None:
    experiment = resolve(RECIPE, ['name="1e5"', 'tracking.group="12"', 'tracking.notes="off"'])
    path = tmp_path / "experiment.yaml"
    path.write_text(serialization.to_yaml(experiment))
    assert serialization.load(path) == experiment
    assert (experiment.name, experiment.tracking.group, experiment.tracking.notes) == ("1e5", "12", "off")


def test_tracking_can_be_off() -> None:
    assert resolve(RECIPE, ["tracking.mode=off"]).tracking.mode == "disabled"


def test_a_word_that_yaml_reads_as_a_number_is_that_word() -> None:
    for word in ("32", '"32"', "bf16"):
        assert resolve("dqn/cartpole", [f"trainer.precision={word}"]).trainer.precision == word.strip('"')
    with pytest.raises(UserError, match=r"trainer.precision: '16'. .*Valid choices: 32, bf16"):
        resolve("dqn/cartpole", ["trainer.precision=16"])


def test_a_later_override_wins() -> None:
    assert resolve(RECIPE, ["seed=1", "seed=2"]).seed == 2


def test_yaml_round_trip_keeps_what_the_subclasses_hold(tmp_path: Path) -> None:
    experiment = resolve(RECIPE, ["module.backbone.dropout=0.25", "data.binarize=dynamic", "tracking.tags=[x]"])
    path = tmp_path / "experiment.yaml"
    path.write_text(serialization.to_yaml(experiment), encoding="utf-8")
    again = serialization.load(path)
    assert again == experiment
    assert type(again.data) is type(experiment.data)
    assert type(again.module) is type(experiment.module)
    assert again.module.model_dump()["backbone"]["dropout"] == 0.25


def test_base_class_fields_serialize_as_what_they_hold() -> None:
    tree = serialization.dump(resolve(RECIPE))
    assert tree["data"]["kind"] == "images"
    assert "batch_size" in tree["data"]
    assert "label_smoothing" in tree["module"]["task"]


def test_experiments_are_frozen() -> None:
    experiment = resolve(RECIPE)
    with pytest.raises(ValidationError, match="frozen"):
        experiment.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("value", ["module.backbone.hidden=[-3]", "module.backbone.hidden=[64,0]"])
def test_a_layer_has_a_width(value: str) -> None:
    with pytest.raises(UserError, match=r"hidden.*not valid for backbone 'mlp': input should be greater than 0"):
        resolve("pg/cartpole", [value])


def test_switching_a_backbone_keeps_common_options_and_drops_the_others() -> None:
    experiment = resolve(RECIPE, ["module.backbone.hidden=99", "module.backbone.name=nature_cnn"])
    assert experiment.module.model_dump()["backbone"] == {"name": "nature_cnn", "hidden": 99}


def test_switching_a_backbone_drops_values_that_mean_something_else_there() -> None:
    experiment = resolve("classifier/digits-lstm", ["module.backbone.name=mlp"])
    assert experiment.module.model_dump()["backbone"] == {"name": "mlp"}


def test_switching_a_kind_keeps_common_fields_and_drops_the_others() -> None:
    experiment = resolve(RECIPE, ["data.batch_size=17", "data.kind=text", "data.name=python-reference"])
    assert experiment.data.kind == "text"
    assert experiment.data.model_dump()["batch_size"] == 17
    assert "binarize" not in experiment.data.model_dump()


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("seeed=1", ["field 'seeed'", "Did you mean 'seed'"]),
        ("trainer.budgt=5", ["'trainer.budgt'", "Did you mean 'trainer.budget'"]),
        ("traner.budget=5", ["'traner'", "Did you mean 'trainer'"]),
        ("module.backbone.hiden=5", ["option of backbone 'lenet'", "'hiden'", "Did you mean 'hidden'"]),
        ("module.backbone.name=lenett", ["backbone 'lenett'", "Did you mean 'lenet'", "nature_cnn"]),
        ("module.backbone.hidden=wide", ["hidden='wide'", "lenet", "integer"]),
        ("module.kind=supervized", ["kind 'supervized'", "Did you mean 'supervised'"]),
        ("module.kind=images", ["kind 'images'", "supervised"]),
        ("data.kind=imagez", ["kind 'imagez'", "Did you mean 'images'", "text"]),
        ("data.binarize=thresh", ["data.binarize", "'thresh'", "threshold"]),
        ("tracking.mode=ofline", ["tracking.mode", "'ofline'", "Did you mean 'offline'"]),
        ("trainer.budget=-5", ["trainer.budget=-5", "greater than 0"]),
        ("data.batch_size=100000000000", ["data.batch_size=100000000000", "65536"]),
        ("trainer.budget=many", ["trainer.budget='many'", "integer"]),
        ("trainer.budget=1.5", ["trainer.budget=1.5", "integer"]),
        ("trainer.budget=", ["trainer.budget=None"]),
        ("trainer=5", ["trainer=5"]),
        ("seed=-1", ["seed=-1"]),
        ("seed=99999999999999999999", ["seed=99999999999999999999"]),
        ("name=", ["name="]),
        ("module.optimizer.lr=0", ["module.optimizer.lr=0"]),
        ("module.optimizer.lr=nan", ["module.optimizer.lr"]),
        ("module.optimizer.lr=.inf", ["module.optimizer.lr"]),
        ("module.optimizer.betas=0.9", ["module.optimizer.betas=0.9"]),
        ("module.optimizer.betas=[0.9]", ["module.optimizer.betas"]),
        ("module.optimizer.lr.x=1", ["module.optimizer.lr", "cannot reach into it"]),
        ("module.optimizer.betas=0.9", ["write it as a list: [0.9]"]),
        ("module.backbone.channels=8,16", ["channels='8,16'", "write it as a list: [8,16]"]),
        ("module.backbone.channels=(8,16)", ["write it as a list: [8,16]"]),
        ("module.optimizer=sgd", ["module.optimizer='sgd'", "module.optimizer.name=", "weight_decay"]),
        ("module.backbone=mlp", ["module.backbone='mlp'", "module.backbone.name="]),
        ("lr=0.1", ["field 'lr'", "Did you mean 'module.optimizer.lr'", "trainer"]),
        ("data.lr=0.1", ["field 'data.lr'", "Did you mean 'module.optimizer.lr'", "data.batch_size"]),
        ("optimizer.lr=0.1", ["field 'optimizer'", "Did you mean 'module.optimizer'"]),
        ("trainer.name=x", ["Did you mean 'name' or 'data.name'"]),
        ("trainer.budget=1e-3", ["trainer.budget=0.001", "integer"]),
        ("novalue", ["'novalue' is not an override", "field=value"]),
        ("=5", ["'=5' is not an override"]),
        ("seed=[1", ["seed='[1'", "cannot be read"]),
    ],
)
def test_an_error_names_field_value_and_choices(override: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        resolve(RECIPE, [override])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "does not hold an experiment"),
        ("- a\n- list\n", "does not hold an experiment"),
        ("just words", "does not hold an experiment"),
        ("name: [", "is not YAML"),
        ("name: x\n", "'data' is missing"),
        ("1: 2\n", "1 is no field"),
        ("!!python/object/apply:os.system [true]\n", "is not YAML"),
        ("name: x\ndata: 3\nmodule: 4\ntrainer: 5\n", "data=3"),
        ("name: x\ndata: {}\nmodule: {}\ntrainer: {}\n", "needs a kind"),
    ],
)
def test_a_file_that_is_no_experiment_is_one_sentence(tmp_path: Path, content: str, part: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        resolve(str(path))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9\n".encode("latin-1"))
    (tmp_path / "folder.yaml").mkdir()
    for name in ("absent.yaml", "latin.yaml", "folder.yaml"):
        with pytest.raises(UserError) as caught:
            resolve(str(tmp_path / name))
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_every_wrong_field_of_a_file_is_named(tmp_path: Path) -> None:
    tree = serialization.dump(resolve(RECIPE))
    tree["trainer"]["budget"] = 0
    tree["tracking"]["mode"] = "never"
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(UserError, match=r"trainer\.budget=0.*tracking\.mode"):
        serialization.load(path)


def test_a_taken_kind_is_refused() -> None:
    from typing import Literal

    with pytest.raises(ValueError, match=r"DataConfig kind 'images' is already registered by lab\.data\.images"):

        class Impostor(DataConfig):
            kind: Literal["images"] = "images"

    assert DataConfig.member("images").__module__ == "lab.data.images"
    assert ModuleConfig.member("supervised").__module__ == "lab.supervised.supervised"


def test_seeds_beyond_the_generators_range_are_refused() -> None:
    largest = resolve(RECIPE, [f"seed={2**31 - 1}"])
    assert isinstance(largest, Experiment)
    with pytest.raises(UserError, match="seed"):
        resolve(RECIPE, [f"seed={2**31}"])


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("module.backbone={name: mlp, 3: 4}", "module.backbone.3"),
        ("module.backbone={name: mlp, null: 4}", "module.backbone.None"),
        ("trainer={true: 4}", "trainer.True"),
    ],
)
def test_a_field_has_a_name(override: str, field: str) -> None:
    with pytest.raises(UserError, match=rf"^{field} is no field: names of fields are words\.$"):
        resolve(RECIPE, [override])


@pytest.mark.parametrize(
    ("recipe", "word", "sentence"),
    [
        (
            RECIPE,
            "module.task.class_weights=[-1,1]",
            r"^module\.task\.class_weights\.0=-1 is not valid: input should be",
        ),
        (RECIPE, "module.task.class_weights=foo", r"^unknown value for module\.task\.class_weights: 'foo'\. Valid cho"),
        (
            "baseline/digits-svm",
            "module.model.gamma=0",
            r"^module\.model\.gamma=0 is not valid: input should be greater",
        ),
        ("baseline/digits-svm", "module.model.gamma=abc", r"^unknown value for module\.model\.gamma: 'abc'\. Valid"),
    ],
)
def test_a_field_that_may_be_several_things_is_refused_once(recipe: str, word: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        resolve(recipe, [word])
    assert not any(label in str(error.value) for label in ("literal[", "constrained", "tuple["))
