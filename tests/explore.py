"""Run the tests that draw by chance again and again with new seeds: ``python -m tests.explore --minutes 10``.

The suite itself draws nothing anew, so this command is where chance finds faults. It ends at the first failure; what
it printed then names the seed and the command that repeats it.
"""

import argparse
import subprocess
import sys
import time


def main() -> int:
    """Exit status: 0 if nothing failed for the whole time, else that of the run that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10, help="how long to go on (10)")
    options, more = parser.parse_known_args()
    until = time.monotonic() + options.minutes * 60
    run = 0
    while run == 0 or time.monotonic() < until:
        run += 1
        print(f"==> run {run}", flush=True)
        # pytest-randomly's own seed decides the order of the tests
        order = f"--randomly-seed={time.time_ns() % 2**32}"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--maxprocesses", "4", "--explore", order, *more]
        failed = subprocess.run(command, check=False).returncode
        if failed:
            print(f"FAILED in run {run} ({order}): the seeds are above", file=sys.stderr)
            return failed
    print(f"{run} runs, nothing failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
