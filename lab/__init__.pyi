from lab.backbones.registry import BackboneConfig as BackboneConfig
from lab.backbones.registry import register as register
from lab.comparison.comparison import compare as compare
from lab.config.overrides import recipe as recipe
from lab.data.images import register_images as register_images
from lab.data.tables import register_table as register_table
from lab.data.text import register_text as register_text
from lab.engine.optimizers import OptimizerConfig as OptimizerConfig
from lab.errors import Failure as Failure
from lab.errors import UserError as UserError
from lab.experiment import DataConfig as DataConfig
from lab.experiment import Experiment as Experiment
from lab.experiment import ModuleConfig as ModuleConfig
from lab.experiment import TrackingConfig as TrackingConfig
from lab.experiment import TrainerConfig as TrainerConfig
from lab.runs.directory import Run as Run
from lab.training.learner import Learner as Learner
from lab.training.restore import evaluate as evaluate
from lab.training.restore import restore as restore
from lab.training.sweep import sweep as sweep
from lab.training.train import Result as Result
from lab.training.train import resume as resume
from lab.training.train import train as train

__version__: str
