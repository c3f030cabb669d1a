"""Let the tests of this folder import its helpers (synthetic runs, the browser)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
