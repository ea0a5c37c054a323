"""How a server on a cluster hears that it is to stop."""

import os
import signal
import subprocess
import sys

import pytest

from lmkit.cluster.serving import Stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_interrupts_what_starts(number):
    with pytest.raises(KeyboardInterrupt), Stop():
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_once_the_server_is_ready(number):
    with Stop() as stop:
        stop.ready()
        os.kill(os.getpid(), number)
        stop.wait()


def test_who_heard_the_signals_before_hears_them_again():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    with Stop() as stop:
        stop.listen()

    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_second_signal_ends_the_process_at_once():
    script = (
        "import os, signal, time\n"
        "from lmkit.cluster.serving import Stop\n"
        "with Stop() as stop:\n"
        "    stop.ready()\n"
        "    for _ in range(2): os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)

    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr == b"stopped at once\n"
