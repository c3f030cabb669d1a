"""What Lightning imports and a training does not use waits, and is whole when somebody uses it."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import lab

_UNUSED = {"ray", "scipy", "sklearn", "sympy", "torch._inductor", "wandb"}


def run(code: str) -> list[str]:
    """The lines that a fresh process prints."""
    words = [sys.executable, "-c", textwrap.dedent(code)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_only_one_module_imports_lightning() -> None:
    root = Path(lab.__file__).parent.parent
    importers = set()
    for path in (each for room in ("lab", "agents", "generative", "cluster") for each in (root / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] in ("lightning", "torchmetrics") for name in names):
                importers.add(path.relative_to(root).as_posix())
    assert importers == {"lab/lightning.py"}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["dqn/cartpole", "vae/digits", "classifier/digits-cnn"])
def test_a_training_runs_nothing_of_it(recipe: str, tmp_path: Path) -> None:
    """But that scores of classes are torchmetrics', without its sounds."""
    scored = recipe.startswith("classifier")
    unused = _UNUSED - {"scipy"} | {"scipy.stats"} if scored else _UNUSED
    code = f"""
        import sys
        from lab.cli import main
        words = ["trainer.budget=64", "trainer.film=false", "tracking.mode=disabled", "--quiet"]
        print(main(["train", {recipe!r}, *words, "--out", {str(tmp_path / "run")!r}]))
        from lab.lazy import waits
        print(waits("torch._dynamo"), waits("torchmetrics"), sorted(sys.modules.keys() & {unused}))
        print("scipy.signal" not in sys.modules or waits("scipy.signal"))
    """
    assert run(code)[-3:] == ["0", f"True {not scored} []", "True"]


@pytest.mark.slow
def test_optimizers_and_compiled_functions_are_what_they_are_without_the_lab() -> None:
    code = """
        import torch
        {imported}
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.Adam([weight])
        @torch.compiler.disable
        def unseen(x):
            return x + torch.compiler.is_compiling()
        print(unseen(torch.zeros(2)))
        def function(x):
            return unseen(x * 2) * 3
        print(torch.compile(function, backend="eager")(torch.ones(2)))
        import torch._dynamo
        print(torch._dynamo.explain(function)(torch.ones(2)).graph_break_count)
        weight.sum().backward(); optimizer.step(); optimizer.zero_grad()
        print(weight.detach(), sorted(optimizer.state_dict()), torch._dynamo.OptimizedModule.__module__)
        module = torch.compile(torch.nn.Linear(2, 2), backend="eager")
        from lightning.fabric.wrappers import _unwrap_compiled
        from lightning.pytorch.utilities.compile import OptimizedModule
        print(type(_unwrap_compiled(module)[0]).__name__, isinstance(module, OptimizedModule))
        print(isinstance(torch.nn.Linear(2, 2), OptimizedModule))
    """
    assert run(code.format(imported="import lab.lightning")) == run(code.format(imported="import lightning.pytorch"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "use",
    [
        "import torchmetrics; torchmetrics.Accuracy",
        "from torchmetrics import *",
        "from torchmetrics import MeanMetric",
        "from torchmetrics.classification import MulticlassAccuracy",
        "import torchmetrics.functional.classification",
        "import torchmetrics.wrappers",
        "from torchmetrics.utilities.plot import plot_single_or_multi_val",
        "from matplotlib import pyplot; pyplot.subplots()",
        "import matplotlib.pyplot as plt; plt.figure()",
        "import matplotlib; matplotlib.use('agg'); import matplotlib.ticker; matplotlib.ticker.MaxNLocator()",
        "from matplotlib.axes import Axes; Axes.plot",
        "from matplotlib.colors import Normalize; Normalize()",
        "import torch._dynamo.config; torch._dynamo.config.verbose",
        "from torch._dynamo.utils import counters",
        "import torch; torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))",
        "import torch; torch.func.vmap(torch.sin)(torch.ones(2))",
        "import scipy.signal; scipy.signal.hamming",
        "from lightning.fabric.strategies import FSDPStrategy; FSDPStrategy()",
    ],
)
def test_whoever_uses_it_gets_it(use: str) -> None:
    assert run(f"import lab.lightning\n{'import torchmetrics.text; ' * ('hamming' in use)}{use}\nprint('done')") == [
        "done"
    ]


@pytest.mark.slow
def test_metrics_of_torchmetrics_are_logged_and_drawn() -> None:
    code = """
        import torch
        from lab.lightning import LightningModule, Trainer
        from torchmetrics.aggregation import MeanMetric
        class Counts(LightningModule):
            def __init__(self):
                super().__init__()
                self.mean, self.automatic_optimization = MeanMetric(), False
            def training_step(self, batch):
                self.mean(batch.mean())
                self.log("mean", self.mean, on_step=False, on_epoch=True)
            def configure_optimizers(self):
                return None
        module = Counts()
        options = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
        trainer = Trainer(max_epochs=1, enable_model_summary=False, **options)
        trainer.fit(module, torch.utils.data.DataLoader(torch.arange(4.0), batch_size=2))
        print(trainer.logged_metrics["mean"].item())
        import matplotlib
        matplotlib.use("agg")
        figure, axes = module.mean.plot(torch.tensor(2.0))
        print(type(figure).__name__, type(axes).__name__)
    """
    assert run(code)[-2:] == ["1.5", "Figure Axes"]


@pytest.mark.slow
@pytest.mark.cluster
def test_functions_that_refer_to_it_travel() -> None:
    code = """
        import lab.lightning
        import matplotlib.pyplot as plt
        from ray import cloudpickle
        def f():
            return plt.gcf
        print(cloudpickle.loads(cloudpickle.dumps(f))() is plt.gcf)
    """
    assert run(code)[-1] == "True"
