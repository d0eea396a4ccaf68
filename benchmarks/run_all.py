"""All benchmarks, one after the other, each in a process of its own.

    python benchmarks/run_all.py

Takes about half an hour. Close other programs first. Ends with the exit code of the worst.
"""

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
NOT_RUN = {"run_all", "shapes"}


def main():
    worst = 0
    for script in sorted(HERE.glob("*.py")):
        if script.stem not in NOT_RUN:
            print(f"\n## {script.stem}\n", flush=True)
            began = time.perf_counter()
            worst = max(worst, abs(subprocess.call([sys.executable, str(script)])))
            print(f"\n({time.perf_counter() - began:.0f} s)", flush=True)
    return worst


if __name__ == "__main__":
    sys.exit(main())
