"""What a process on the cluster must be able to import: what the process that started it can."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lab import catalog


class Imports(NamedTuple):
    """Where modules are searched for, and which packages names in files may refer to."""

    paths: Sequence[str]
    """entries of sys.path"""
    packages: Sequence[str]
    """allowed by the user with --import"""

    @classmethod
    def of_this_process(cls) -> Imports:
        """This process's own, its working directory first."""
        return cls([str(Path.cwd()), *(path for path in sys.path if path)], catalog.allowed_imports())

    def adopt(self) -> None:
        """Let this process import the same: to be called before anything of the user's is looked up."""
        sys.path.extend(path for path in self.paths if path not in sys.path)
        for name in self.packages:
            catalog.allow_import(name)
