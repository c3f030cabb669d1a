"""Remarks of other libraries are kept off the screen for a while, or told in lines."""

import logging
import subprocess
import sys
import warnings

import pytest

from lab.quiet import quiet, warnings_in_lines


def test_remarks_and_warnings_are_left_out_and_come_back() -> None:
    logger = logging.getLogger("chatty")
    logger.setLevel(logging.INFO)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet("chatty"):
            assert logger.level == logging.ERROR
            warnings.warn("never mind", stacklevel=1)
        assert logger.level == logging.INFO
        with quiet(module="elsewhere"):
            warnings.warn("of this module", stacklevel=1)
    assert [str(each.message) for each in caught] == ["of this module"]


def test_warnings_become_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lab"), warnings.catch_warnings():
        warnings.simplefilter("always")
        with warnings_in_lines():
            for number in range(3):
                warnings.warn(f"\x1b[33mWARN: {number} is\n  out of bounds\x1b[0m", stacklevel=1)
            warnings.warn("1 is lost", stacklevel=1)
            warnings.warn(ResourceWarning(), stacklevel=1)
            warnings.warn("x" * 1000, stacklevel=1)
            warnings.warn("\x1b]0;title\x07\x1b[2Ka\x00b\tc\x07", stacklevel=1)
    assert caplog.messages == ["0 is out of bounds", "1 is lost", "ResourceWarning", "x" * 300, "ab c"]


_SCRIPT = """
import sys, warnings
import lab.cli
from lab.commands import list as command

def run(arguments):
    warnings.warn("\\x1b[33mWARN: this is old\\x1b[0m")
    return 0

command.run = run
sys.exit(lab.cli.main(sys.argv[1:]))
"""


def test_a_command_tells_warnings_in_lines_unless_it_is_debugged() -> None:
    words = [sys.executable, "-c", _SCRIPT, "list"]
    told = [subprocess.run([*words, *more], capture_output=True, text=True) for more in ([], ["--debug"])]
    assert [each.returncode for each in told] == [0, 0]
    assert told[0].stderr == "this is old\n"
    assert "UserWarning" in told[1].stderr
