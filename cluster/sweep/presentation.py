"""How a demo ends: every run measured, compared and shown in a report."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from agents.algorithms.agent import Agent
from agents.episodes import play
from agents.experience.data import EnvData
from agents.play.screens import Film
from agents.play.video import write_video
from cluster.sweep.sweep import Sweep
from lab.comparison.page.report import comparison_table, write_report
from lab.runs.directory import Run
from lab.training.evaluation import evaluating
from lab.training.restore import restore

_EPISODES = 20
_EPISODE_SEED = 1234
_CARTPOLE_FPS = 50.0


def present(sweep: Sweep) -> int:
    """Measure every run of a finished demo, print the comparison, write the report folder, say what to type next."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160
    failed = [entry for entry in sweep.entries if entry.status == "failed"]
    runs = [Run.open(sweep.run_path(entry)) for entry in sweep.entries if entry.status == "completed"]
    measured = {}
    with console.status("measuring and drawing"):
        for run in runs:
            measured[run.path] = _measure(run)
    page = write_report(
        runs,
        sweep.path / "report",
        title="Demo",
        at="best",
        extra_media={path: files for path, (_, files) in measured.items()},
    )
    page = page.rename(page.with_name("index.html"))
    console.print(comparison_table(runs, at="best"))
    _print_measured(console, {path: metrics for path, (metrics, _) in measured.items()})
    for entry in failed:
        console.print(f"failed: {sweep.run_path(entry)}: {entry.error}", markup=False)
    _print_next(console, page, runs)
    return 1 if failed else 0


def _measure(run: Run) -> tuple[dict[str, float], list[Path]]:
    """Test metrics of the best checkpoint (20 greedy episodes, the test split), and the film of an agent."""
    _, data, module, _ = restore(run)
    media: list[Path] = []
    try:
        with evaluating(module, _EPISODE_SEED):
            metrics = module.evaluate(data, "test", episodes=_EPISODES, seed=_EPISODE_SEED)
            if isinstance(module, Agent):
                media.append(_film(run, module))
    finally:
        data.close()
    return metrics, media


def _film(run: Run, agent: Agent) -> Path:
    """One greedy episode as a GIF."""
    data = run.experiment().data
    assert isinstance(data, EnvData)
    film = Film()
    play(agent.policy, data.env, 1, seed=_EPISODE_SEED, options=data.env_options, on_frame=film)
    run.media.mkdir(exist_ok=True)
    path = run.media / "episode.gif"
    write_video(path, film.frames, _CARTPOLE_FPS)
    return path


def _print_measured(console: Console, measured: dict[Path, dict[str, float]]) -> None:
    table = Table(title=f"the best checkpoints on test data and {_EPISODES} greedy episodes", title_justify="left")
    table.box = None
    for column in ("run", "measured", "value", "seconds of training"):
        table.add_column(column, justify="left" if column in ("run", "measured") else "right")
    for path, metrics in measured.items():
        name, value = next(iter(metrics.items()))
        seconds = Run(path).result()["seconds"]
        table.add_row(str(path), name.removeprefix("eval/"), f"{value:.4g}", f"{seconds:.0f}")
    console.print(table)


def _print_next(console: Console, page: Path, runs: list[Run]) -> None:
    agent = next((run.path for run in runs if "dqn" in run.path.name), None)
    model = next((run.path for run in runs if "pixelcnn" in run.path.name), None)
    lines = [f"report: {page}", "next:"]
    if agent is not None:
        lines.append(f"  lab play {agent}    (watch the agent)")
    if model is not None:
        lines.append(f"  lab sample {model} --n 64    (draw more digits)")
    lines.append("  lab sweep dqn/cartpole --seeds 5 module.gamma=0.97,0.99    (try variants in parallel)")
    lines.append("  lab list    (see every recipe)")
    console.print("\n".join(lines), markup=False)
