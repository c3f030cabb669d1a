"""An experiment: everything that a run is, as one frozen tree of models.

It is saved whole in each run directory and each checkpoint, and read back without running anybody's code: a file may
only name what is registered. A part of which there are several sorts (data, modules, collectors, ...) carries a
`kind`; its class is found by that name, and its module imported only if it is one of the lab's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from lab import catalog
from lab.errors import UserError, unknown
from lab.registry import Registry


@dataclass(frozen=True)
class Shared:
    """Marks a field that counts something of all workers together: `batch_size: Annotated[int, Shared("equal")]`.

    Each worker takes an `equal` part, and a number that cannot be divided so is refused; or a part `rounded` up.
    """

    parts: Literal["equal", "rounded"]


class Config(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        coerce_numbers_to_str=True,
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


class KindConfig(Config):
    """The base of a family of configs told apart by `kind`.

    A direct subclass opens a family (`class DataConfig(KindConfig)`); each class below it that gives `kind` a value
    belongs to it: `kind: Literal["images"] = "images"`. A field typed as the family's base takes any of them.
    """

    kind: str

    family: ClassVar[type[KindConfig]]
    """the class that opened the family"""
    kinds: ClassVar[Registry[type[KindConfig]]]
    """the family's members"""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if KindConfig in cls.__bases__:
            cls.family, cls.kinds = cls, Registry(catalog.KIND, f"{cls.__name__} kind")
        default = cls.model_fields["kind"].default
        if isinstance(default, str):
            cls.kinds.add(default, cls)

    @classmethod
    def member(cls, kind: str) -> type[KindConfig]:
        """The class of a kind. Raises UserError with the valid choices."""
        member = cls.kinds.get(kind)
        if member is None or not issubclass(member, cls):
            catalog.import_registered(catalog.KIND)
            choices = [name for name, each in cls.kinds.imported().items() if issubclass(each, cls)]
            raise unknown(cls.kinds.noun, kind, choices)
        return member

    @model_validator(mode="wrap")
    @classmethod
    def _dispatch(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(value, dict) and not isinstance(cls.model_fields["kind"].default, str):
            if "kind" not in value:
                raise UserError(f"{cls.__name__} needs a kind.")
            return cls.member(str(value["kind"])).model_validate(value)  # type: ignore[return-value]
        return handler(value)


class DataConfig(KindConfig):
    """Where a module's input comes from: `build` gives a LightningDataModule with a `spec`."""

    def build(self, seed: int) -> Any:
        raise NotImplementedError


class ModuleConfig(KindConfig):
    """What is trained: `build` gives a Learner for data of the given spec."""

    def build(self, spec: Any) -> Any:
        raise NotImplementedError


class AverageConfig(Config):
    """Averaged weights, by which a run is evaluated and kept while it trains on with its own.

    A field that the average does not use is refused.
    """

    name: Literal["ema", "swa"]
    """ema: exponential moving average; swa: the mean over the last part of the run (Izmailov et al. 2018)"""
    decay: float = Field(default=0.999, ge=0, lt=1)
    """ema: share of the average that each update keeps; early on less, so that the first weights weigh no more"""
    start: float = Field(default=0.75, ge=0, lt=1)
    """swa: share of the budget after which weights count"""
    period: PositiveInt = 1
    """swa: updates from one set of weights that counts to the next"""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field in ("start", "period") if self.name == "ema" else ("decay",):
            value = getattr(self, field)
            if value != type(self).model_fields[field].default:
                raise ValueError(f"{field}={value} is not used by {self.name!r}")
        return self


class TrainerConfig(Config):
    """How long and on what. Periods and the budget count environment steps for agents, samples for all others."""

    budget: PositiveInt
    """environment steps (agents) or samples (all others) to train for"""
    eval_period: PositiveInt | None = None
    """evaluate every so many steps or samples; by default 20 times a run"""
    log_period: PositiveInt | None = None
    """write a row of metrics every so many steps or samples; by default 200 times a run"""
    checkpoint_seconds: PositiveFloat = 20.0
    """save `last` when so many seconds have passed since it was last saved"""
    max_seconds: PositiveFloat | None = None
    """stop after so many seconds of training, whatever the budget says"""
    patience: PositiveInt | None = None
    """stop after so many evaluations in a row that do not improve the monitored metric, whatever the budget says"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1"""
    precision: Literal["32", "bf16"] = "32"
    """float32, or bfloat16 autocast"""
    channels_last: bool = False
    """convolutions work on pixels whose channels lie side by side in memory: often quicker, above all with bf16"""
    engine: Literal["auto", "eager", "traced"] = "auto"
    """how an update runs: plain autograd, or recorded operators, on a GPU a CUDA graph (auto: as suits the module)"""
    num_threads: PositiveInt | None = None
    """torch threads; by default 1 for agents that see vectors, else what torch takes"""
    deterministic: bool = False
    """ask torch for deterministic kernels (CUDA; CPU runs repeat anyway)"""
    diagnostics: bool = True
    """log how updates, gradients and layers do (`diagnostics/...`), histograms of them, and first-layer filters"""
    film: bool = True
    """write a film of one episode when an agent's run is complete"""
    average: AverageConfig | None = None
    """ema or swa: average the weights; evaluation, the best checkpoint and whoever opens the run use the averages"""
    snapshots: PositiveInt | None = None
    """keep so many checkpoints, in equal distances, for an ensemble of one run (Huang et al. 2017)"""
    start_from: str | None = None
    """a run (or checkpoint) whose weights this one begins with, wherever both have the same names and shapes"""
    num_workers: PositiveInt = 1
    """processes that train together on a Ray cluster, with a GPU each if there are any; sizes stay those of all"""
    min_workers: PositiveInt | None = None
    """go on with so few when there is no room for num_workers; by default all are needed"""

    @model_validator(mode="after")
    def _check_snapshots(self) -> Self:
        if self.snapshots is not None and self.average is not None and self.average.name == "swa":
            raise ValueError("snapshots are of weights on the way, which average=swa has one mean of; take one of both")
        return self

    @field_validator("precision", mode="before")
    @classmethod
    def _as_yaml_reads_it(cls, value: Any) -> Any:
        return "32" if value == 32 else value

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers={self.min_workers} is more than num_workers={self.num_workers}.")
        return self


class TrackingConfig(Config):
    """W&B: online when a key is configured, else offline; never asked for, never waited for."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: online with a key, else offline; disabled leaves wandb unimported"""
    project: str = "lab"
    entity: str | None = None
    group: str | None = None
    """runs that belong together; by default the experiment's name"""
    job_type: str = "train"
    tags: tuple[str, ...] = ()
    notes: str | None = None

    @field_validator("mode", mode="before")
    @classmethod
    def _off_is_disabled(cls, value: Any) -> Any:
        return "disabled" if value is False else value  # how YAML reads off


class Experiment(Config):
    """Everything a run is."""

    name: str = Field(min_length=1)
    """the recipe's name, or your own"""
    data: SerializeAsAny[DataConfig]
    module: SerializeAsAny[ModuleConfig]
    trainer: TrainerConfig
    tracking: TrackingConfig = TrackingConfig()
    seed: int = Field(default=0, ge=0, lt=2**31)
