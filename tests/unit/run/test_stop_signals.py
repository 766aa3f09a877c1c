"""SIGTERM and SIGINT, sent to this process."""

import os
import signal

import pytest

from service.run.stop_signals import JobStoppedError, StopSignals

KINDS = pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])


def send(kind):
    os.kill(os.getpid(), kind)


@KINDS
def test_signal_interrupts_nothing_by_itself(kind):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    signals = StopSignals()
    with signals.installed():
        signals.check()
        send(kind)
        assert signals.is_set
        with pytest.raises(JobStoppedError):
            signals.check()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@KINDS
def test_second_signal_does_not_interrupt_the_cleanup(kind):
    signals, parts = StopSignals(), []

    def work():
        try:
            send(kind)
            parts.append("after the signal")
        finally:
            send(kind)
            parts.append("cleanup")

    with signals.installed(), pytest.raises(JobStoppedError), signals.interruptible():
        work()
    assert parts == ["cleanup"]


def test_part_that_may_be_interrupted_does_not_begin_after_a_signal():
    signals, parts = StopSignals(), []
    with signals.installed():
        send(signal.SIGTERM)
        with pytest.raises(JobStoppedError), signals.interruptible():
            parts.append("begun")
    assert parts == []


def test_stop_is_requested_once_also_for_a_signal_that_came_before():
    requests = []
    for sends_before in (True, False):
        signals = StopSignals()
        with signals.installed():
            if sends_before:
                send(signal.SIGTERM)
            with signals.on_first_signal(lambda early=sends_before: requests.append(early)):
                send(signal.SIGINT)
                send(signal.SIGTERM)
    assert requests == [True, False]
