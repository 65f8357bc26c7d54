"""Counts the words of a checkout and patches a large file: index.py CHECKOUT INDEX MODEL ROUNDS.

The model comes from the lower: a patch of one page must cost one page, not a copy of the file.
"""

import json
import os
import re
import sys
from collections import Counter

checkout, index, model, rounds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
os.makedirs(index, exist_ok=True)
for round_number in range(rounds):
    if os.path.exists("stop"):
        break
    words = Counter()
    for directory, names, files in os.walk(checkout):
        if ".git" in names:
            names.remove(".git")
        for name in files:
            try:
                with open(os.path.join(directory, name), "rb") as source:
                    words.update(re.findall(rb"[a-z]{4,}", source.read()))
            except FileNotFoundError:
                continue  # git replaces files by rename while we walk
    temporary = os.path.join(index, "words.json.new")
    with open(temporary, "w") as out:
        json.dump({word.decode(): count for word, count in words.most_common(2000)}, out)
        out.flush()
        os.fsync(out.fileno())
    os.rename(temporary, os.path.join(index, "words.json"))
    with open(model, "r+b") as patched:
        patched.seek(round_number % 16 * 1024 * 1024)
        patched.write(os.urandom(4096))
