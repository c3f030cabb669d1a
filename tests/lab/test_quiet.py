"""Remarks of other libraries are kept off the screen for a while."""

import logging
import warnings

from lab.quiet import quiet


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
