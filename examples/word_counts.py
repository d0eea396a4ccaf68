"""Count the words of all text files below a folder, serially and with pmap.

    python examples/word_counts.py FOLDER

Without a folder it counts the Python files of the standard library.
"""

import re
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path

from parmap import pmap

WORD = re.compile(r"[^\W\d_]+")


def count_words(path):
    """The words of one file and how often each occurs; of a binary file, none."""
    data = path.read_bytes()
    if b"\0" in data:
        return Counter()
    return Counter(WORD.findall(data.decode(errors="replace").lower()))


if len(sys.argv) > 1:
    folder, pattern = Path(sys.argv[1]), "*"
else:
    folder, pattern = Path(sysconfig.get_path("stdlib")), "*.py"
files = [path for path in folder.rglob(pattern) if path.is_file()]
print(f"{len(files)} files in {folder}")

# pmap goes first: it starts its workers within this time, and reads from a cold disk if it is cold.
began = time.perf_counter()
results = pmap(count_words, files, progress="counting words")
parallel = sum(results, Counter())
pmap_seconds = time.perf_counter() - began

began = time.perf_counter()
serial = sum(map(count_words, files), Counter())
map_seconds = time.perf_counter() - began

for word, count in parallel.most_common(10):
    print(f"{count:10,} {word}")
print(f"map took {map_seconds:.2f} s, pmap {pmap_seconds:.2f} s; same counts: {parallel == serial}")
print(results.report)
