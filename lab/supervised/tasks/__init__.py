"""What is predicted from features, and how it is learned and scored: one file a task."""

from lab.data.targets import Target
from lab.errors import UserError
from lab.supervised.tasks.base import Task, TaskConfig
from lab.supervised.tasks.classification import ClassificationConfig
from lab.supervised.tasks.decoding import DecodingConfig
from lab.supervised.tasks.multi_label import MultiLabelConfig
from lab.supervised.tasks.regression import RegressionConfig
from lab.supervised.tasks.tagging import TaggingConfig
from lab.supervised.tasks.tree_tagging import TreeTaggingConfig


def task_for(config: TaskConfig | None, target: Target | None) -> TaskConfig:
    """The config of a task, or that of the first task that predicts this kind of target.

    Raises UserError when there is none, or another kind of target was asked for.
    """
    held = "nothing to predict" if target is None else type(target).__name__
    tasks = [each for each in TaskConfig.kinds.imported().values() if issubclass(each, TaskConfig)]
    if config is None:
        config = next((each() for each in tasks if isinstance(target, each.target)), None)  # type: ignore[call-arg]
    if config is None:
        kinds = ", ".join(each.target.__name__ for each in tasks)
        raise UserError(f"module.kind='supervised' predicts {kinds}; these data hold {held}.")
    if not isinstance(target, config.target):
        raise UserError(
            f"module.task.kind={config.kind!r} predicts {config.target.__name__}; these data hold {held}. "
            f"data.target_kind says what they are, module.task.kind names another task."
        )
    return config


__all__ = [
    "ClassificationConfig",
    "DecodingConfig",
    "MultiLabelConfig",
    "RegressionConfig",
    "TaggingConfig",
    "Task",
    "TaskConfig",
    "TreeTaggingConfig",
    "task_for",
]
