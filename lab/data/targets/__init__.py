"""What a batch carries beside its inputs, to be predicted from them: one file a kind."""

from lab.data.targets.classes import Classes
from lab.data.targets.real_values import RealValues
from lab.data.targets.symbols import Symbols

Target = Classes | RealValues | Symbols

__all__ = ["Classes", "RealValues", "Symbols", "Target"]
