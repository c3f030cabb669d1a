"""Tables: a row a sample, columns of numbers and words, some of them to be predicted.

`data.name` is a registered table (`lab list`) or the path of a CSV file, itself or below `root`, which is `data.root`,
else the environment variable LAB_DATA, else `./data`. Rows are split by `data.split_seed`, the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from lab.data.datasets import DataSet, carried_by_scikit_learn, load_named
from lab.data.items import Item, text
from lab.data.resident import Batch, Chunk, ResidentModule, ShuffledOrder
from lab.data.spec import DataSpec, TensorSpec
from lab.data.splits import held_out, tell_absent
from lab.data.table_files import Table, encoder_of, parse_csv, read_csv, targets_of
from lab.data.targets import Classes, TargetKind
from lab.errors import UserError, unknown
from lab.experiment import DataConfig, Shared
from lab.ranks import ranks
from lab.registry import Registry

Split = Literal["train", "val", "test"]
TABLES: Registry[DataSet[Table]] = Registry("register_table", "table", "datasets")


def register_table(name: str) -> Callable[[DataSet[Table]], DataSet[Table]]:
    """Register a function `root -> Table` as the table `name`. Raises ValueError for a taken name."""
    return TABLES.register(name)


class TableData(DataConfig):
    """Rows of a table, resident on the device."""

    kind: Literal["table"] = "table"
    name: str = "diabetes"
    """a registered table, or a CSV file with a header"""
    root: str | None = None
    """folder of data files; by default LAB_DATA, else ./data"""
    target: tuple[str, ...] = ()
    """the columns to predict; by default the last one"""
    target_kind: TargetKind = "auto"
    """what they are: auto takes words for classes, several columns of 0 and 1 for multi_label, numbers for real"""
    drop: tuple[str, ...] = ()
    """columns to leave out"""
    categories: tuple[str, ...] = ()
    """columns whose cells are words, even if they look like numbers (codes, for example)"""
    batch_size: Annotated[PositiveInt, Shared("equal")] = 32
    batches_per_step: PositiveInt = 32
    """minibatches in one training step; more of them, less overhead"""
    noise: NonNegativeFloat = 0.0
    """standard deviation of Gaussian noise on each input of training rows, as networks read it: of numbers 1 is the
    column's own"""
    validation: float = Field(default=0.15, gt=0, lt=0.5)
    """share of the rows held out for validation"""
    test: float = Field(default=0.15, gt=0, lt=0.5)
    """share of the rows held out for testing"""
    split_seed: NonNegativeInt = 0
    """which rows are held out"""

    def build(self, seed: int) -> TableModule:
        """Load the table. Raises UserError for one that is absent, damaged, or has no such columns."""
        return TableModule(self, load_named(TABLES, self.name, self.root, read_csv), seed)


class TableModule(ResidentModule):
    """x (B, F) float32, standardized; y (B, ...) as the target says, real values in the table's own units."""

    def __init__(self, config: TableData, table: Table, seed: int) -> None:
        super().__init__()
        self.config = config
        for field in ("target", "drop", "categories"):
            names: tuple[str, ...] = getattr(config, field)
            for name in names:
                if name not in table.header:
                    raise unknown(f"data.{field} column", name, table.header)
        targets = config.target or tuple(name for name in table.header if name not in config.drop)[-1:]
        inputs = tuple(name for name in table.header if name not in {*targets, *config.drop})
        num = len(table.rows)
        num_val, num_test = (max(2, round(num * share)) for share in (config.validation, config.test))
        if num - num_val - num_test < 2:
            raise UserError(f"table {config.name!r} has {num} rows; training, validation and testing need more.")
        with _naming(f"table {config.name!r}"):
            y, target = targets_of(table, targets, config.target_kind, config.name)
        if isinstance(target, Classes):
            rest, test = held_out(y, num_test, config.split_seed)
            train, val = (rest[part] for part in held_out(y[rest], num_val, config.split_seed))
            tell_absent(target, {"train": y[train], "val": y[val], "test": y[test]}, config.name)
        else:
            order = np.random.default_rng(config.split_seed).permutation(num)
            train, val, test = np.split(order, [num - num_val - num_test, num - num_test])
        with _naming(f"table {config.name!r}"):
            self.encoder = encoder_of(table, inputs, train, config.categories)
            x, statistics = self.encoder.encode(table), self.encoder.statistics
        self.spec = DataSpec(
            TensorSpec((len(statistics.names),)),
            target=target.fitted(y[train]),
            statistics=statistics,
        )
        tensors = torch.from_numpy(x).float(), torch.from_numpy(y)
        rows = {"train": train, "val": val, "test": test}
        self._splits = {name: (tensors[0][index], tensors[1][index]) for name, index in rows.items()}
        self.order = ShuffledOrder(len(train), config.batch_size, seed, self.device)

    def next_chunk(self) -> Chunk[Batch]:
        return Chunk(self._draw(), self.config.batches_per_step)

    def batches(self, split: Split, batch_size: int = 10_000) -> Iterator[Batch]:
        """A split in order."""
        x, y = self._splits[split]
        yield from map(Batch, x.split(batch_size), y.split(batch_size))

    def items(self, sources: Sequence[str]) -> Iterator[Item]:
        """Rows of CSV files whose header names the columns that these data are read from; others may stand beside."""
        for source in sources:
            table = parse_csv(text(source), repr(source))
            if not table.rows:
                raise UserError(f"{source!r} has a header and no rows.")
            with _naming(repr(source)):
                x = torch.from_numpy(self.encoder.encode(table)).float()
            yield from (Item(f"{source}:{line}", row) for line, row in zip(table.lines, x, strict=True))

    def _draw(self) -> Iterator[Batch]:
        x, y = self._splits["train"]
        for _ in range(self.config.batches_per_step):
            if not self.config.noise:
                index = self.order.next()
                yield Batch(x[index], y[index])
                continue
            generator, index = self.order.generator(), self.order.next_of_all()
            noise = torch.randn(len(index), x.shape[1], generator=generator, device=x.device)
            mine = ranks.shard(len(index))  # of what one process would draw
            yield Batch(x[index[mine]] + self.config.noise * noise[mine], y[index[mine]])


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Sentences about cells begin with where these stand."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error) if source in str(error) else f"{source}: {error}") from None


@register_table("diabetes")
def diabetes(root: Path) -> Table:
    """How diabetes progressed in a year, by ten measurements of 442 patients (Efron et al. 2004); in scikit-learn."""
    x, y = (np.loadtxt(carried_by_scikit_learn(f"diabetes_{part}.csv.gz")) for part in ("data_raw", "target"))
    header = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6", "progression")
    rows = [[repr(float(value)) for value in row] for row in np.column_stack([x, y])]
    return Table(header, rows, list(range(1, len(rows) + 1)))
