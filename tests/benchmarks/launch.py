"""Run one program, and say what it cost: `python -I -S launch.py ANSWER LONGEST PROGRAM...`.

Linux counts the memory of the process that starts a program into that program's own peak. So
programs are started from here, where next to nothing is imported: no peak below that of this
interpreter, about 9 MB, can be seen. ANSWER is written as `SECONDS STATUS PEAK_IN_KIB`; STATUS
is the exit status, or minus the signal. A program that takes longer than LONGEST is killed.
"""

import os
import signal
import sys
import time


def main(answer: str, longest: str, *command: str) -> None:
    """Start it, wait for it, and write the answer."""
    begin = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, float(longest))
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - begin
    with open(answer, "w") as file:
        file.write(f"{seconds} {os.waitstatus_to_exitcode(status)} {usage.ru_maxrss}")


if __name__ == "__main__":
    main(*sys.argv[1:])
