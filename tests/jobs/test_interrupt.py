"""An interruption that Python drops in a callback is raised again."""

import subprocess
import sys

import pytest

# A finaliser, a weak reference's callback: what they raise is printed and dropped.
DROPPED = """
import os, signal, time, weakref
from jobs.interrupt import sigterm_interrupts

class Thing:
    pass

class Finalised:
    def __del__(self):
        self.interrupt()
    def interrupt(self, *_):
        os.kill(os.getpid(), signal.{sent})
        time.sleep(.01)

for way in range(2):
    thing = Finalised() if way == 0 else Thing()
    watched = weakref.ref(thing, lambda _: Finalised.interrupt(None)) if way else None
    try:
        with sigterm_interrupts():
            del thing
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                sum(range(1000))
    except KeyboardInterrupt as error:
        print(type(error).__name__)
    del watched
assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
"""


@pytest.mark.parametrize(("sent", "kind"), [("SIGTERM", "Terminated"), ("SIGINT", "KeyboardInterrupt")])
def test_an_interruption_that_a_callback_drops_is_raised_again(sent: str, kind: str) -> None:
    script = DROPPED.format(sent=sent)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout.split() == [kind, kind], ran.stderr
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""


def test_other_errors_of_a_callback_are_printed_as_before() -> None:
    script = (
        "from jobs.interrupt import sigterm_interrupts\n"
        "class Broken:\n"
        "    def __del__(self):\n"
        "        raise ValueError('of a finaliser')\n"
        "with sigterm_interrupts():\n"
        "    Broken()\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0
    assert "ValueError: of a finaliser" in ran.stderr
