"""A bigram model of four words, written by hand: B after A is likely, BE is rare, and the numbers are plain."""

import gzip
from pathlib import Path

ARPA = """\\data\\
ngram 1=7
ngram 2=4

\\1-grams:
-2\t<unk>
0\t<s>\t-0.5
-1\t</s>
-0.75\tA\t-0.25
-1\tB\t-0.25
-1.5\tAB\t-0.125
-2\tBE\t-0.125

\\2-grams:
-0.25\t<s> A
-0.25\tA B
-0.5\tB </s>
-0.5\tAB </s>

\\end\\
"""


def write_arpa(folder: Path, zipped: bool = False) -> Path:
    """Write it into a folder, plain or gzipped."""
    path = folder / ("small.arpa.gz" if zipped else "small.arpa")
    path.write_bytes(gzip.compress(ARPA.encode()) if zipped else ARPA.encode())
    return path
