"""Count the words of all text files below a folder, serially and with pmap.

    python examples/word_counts.py [FOLDER]

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
    return Counter(WORD.findall("" if b"\0" in data else data.decode(errors="replace").lower()))


def timed_total(counters):
    """All counts in one, and the seconds that took."""
    began = time.perf_counter()
    words = Counter()
    for counter in counters:
        words.update(counter)
    return words, time.perf_counter() - began


given = len(sys.argv) > 1
folder = Path(sys.argv[1] if given else sysconfig.get_path("stdlib"))
found = [path for path in folder.rglob("*" if given else "*.py") if path.is_file()]
files = [path for path in found if "site-packages" not in path.relative_to(folder).parts]
print(f"{len(files)} files in {folder}")
for path in files:  # so that neither of the two finds them cached by the other
    path.read_bytes()

results = pmap(count_words, files, progress="counting words")
words, pmap_seconds = timed_total(results)  # the start of its workers is in it
same, map_seconds = timed_total(map(count_words, files))

for word, count in words.most_common(10):
    print(f"{count:10,} {word}")
print(f"map took {map_seconds:.2f} s, pmap {pmap_seconds:.2f} s; same counts: {same == words}")
print(results.report)
