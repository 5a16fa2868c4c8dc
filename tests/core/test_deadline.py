import threading

from stepvault.deadline import Deadline


def test_work_ends_before_the_platform_ends_it() -> None:
    assert 879 < Deadline(900).remaining() <= 880
    assert 8.9 < Deadline(10).remaining() <= 9


def test_without_a_limit_there_is_always_time_left() -> None:
    assert Deadline().remaining() == float("inf")
    assert not Deadline().expired


def test_the_watcher_cancels_when_time_is_up() -> None:
    called = threading.Event()
    with Deadline(0.05, margin=0).watch(called.set):
        assert called.wait(5)


def test_work_that_ends_in_time_is_not_cancelled() -> None:
    called = threading.Event()
    with Deadline(0.2, margin=0).watch(called.set):
        pass
    assert not called.wait(0.4)
