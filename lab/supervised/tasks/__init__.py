"""What is predicted from features, and how it is learned and scored: one file a task."""

from lab.data.targets import Target
from lab.errors import UserError
from lab.supervised.tasks.base import Task, TaskConfig
from lab.supervised.tasks.regression import RegressionConfig

_TASKS: tuple[type[TaskConfig], ...] = (RegressionConfig,)
"""the first that predicts a target is taken where the experiment names none"""


def task_of(config: TaskConfig | None, target: Target | None, num_features: int) -> Task:
    """The task of a config, or the one that predicts this kind of target.

    Raises UserError when there is none, or another kind of target was asked for.
    """
    if config is None:
        config = next((each() for each in _TASKS if isinstance(target, each.target)), None)  # type: ignore[call-arg]
    if config is None:
        kinds = ", ".join(each.target.__name__ for each in _TASKS)
        raise UserError(f"module.kind='supervised' predicts {kinds}, not {target!r}.")
    if not isinstance(target, config.target):
        raise UserError(f"module.task.kind={config.kind!r} predicts {config.target.__name__}, not {target!r}.")
    return config.build(target, num_features)


__all__ = ["Task", "TaskConfig", "task_of"]
