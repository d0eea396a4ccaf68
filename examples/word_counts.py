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


def total(counters):
    """All counts in one."""
    words = Counter()
    for counter in counters:
        words.update(counter)
    return words


if len(sys.argv) > 1:
    folder, pattern = Path(sys.argv[1]), "*"
else:
    folder, pattern = Path(sysconfig.get_path("stdlib")), "*.py"
found = [path for path in folder.rglob(pattern) if path.is_file()]
files = [path for path in found if "site-packages" not in path.relative_to(folder).parts]
print(f"{len(files)} files in {folder}")

for path in files:  # so that neither of the two finds them cached by the other
    path.read_bytes()

# pmap's time includes the start of its workers.
began = time.perf_counter()
results = pmap(count_words, files, progress="counting words")
words = total(results)
pmap_seconds = time.perf_counter() - began

began = time.perf_counter()
same = total(map(count_words, files)) == words
map_seconds = time.perf_counter() - began

for word, count in words.most_common(10):
    print(f"{count:10,} {word}")
print(f"map took {map_seconds:.2f} s, pmap {pmap_seconds:.2f} s; same counts: {same}")
print(results.report)
