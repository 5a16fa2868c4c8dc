"""The one timer: it measures, and what does not come in time is named."""

import time

import pytest

from devtools.timer import Timer, wait_until


def test_the_seconds_of_a_block_stay_after_its_end() -> None:
    with Timer() as timer:
        time.sleep(0.02)
    seconds = timer.seconds
    assert 0.02 <= seconds < 5
    time.sleep(0.01)
    assert timer.seconds == seconds


def test_the_first_answer_that_is_true_is_returned() -> None:
    answers = iter([None, "", "ready", "too late"])
    assert wait_until(lambda: next(answers), "an answer", pause=0) == "ready"


def test_what_does_not_come_is_named_with_the_time_it_had() -> None:
    with pytest.raises(TimeoutError, match=r"the postman: it did not come within 0\.05 s"):
        wait_until(lambda: False, "the postman", seconds=0.05)


def test_what_can_no_longer_come_is_not_waited_for() -> None:
    with Timer() as timer, pytest.raises(TimeoutError, match="the postman: it will not come"):
        wait_until(lambda: False, "the postman", seconds=60, given_up=lambda: True)
    assert timer.seconds < 5
