"""fsx's operations on files that come from a lower: lower_rewrite.py MOUNT LOWER OPERATIONS SEED [VOLUME EVERY].

fsx truncates the file it opens, so its lower's data is gone before the first operation. Here every file starts
as the lower has it, and is written, mapped, truncated, punched and read at random; a copy in memory says what
it must hold. With VOLUME, a snapshot is taken every EVERY operations. At the end the lower must be unchanged.
"""

import ctypes
import hashlib
import mmap
import os
import random
import subprocess
import sys

FILES, LENGTH = 8, 1 << 20
PUNCH_HOLE_KEEP_SIZE = 3
libc = ctypes.CDLL(None, use_errno=True)


def punch(descriptor, offset, length):
    if libc.fallocate(descriptor, PUNCH_HOLE_KEEP_SIZE, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


class File:
    def __init__(self, path):
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR)
        with open(path, "rb") as source:
            self.model = bytearray(source.read())

    def range(self, source):
        offset = source.randrange(len(self.model)) if self.model else 0
        return offset, min(source.randint(1, 65536), LENGTH - offset)

    def extend_to(self, end):
        if end > len(self.model):
            self.model.extend(bytes(end - len(self.model)))

    def step(self, source):
        kind = source.choices(("write", "map", "truncate", "punch", "read", "reopen", "sync"), (10, 6, 2, 3, 10, 1, 1))[0]
        offset, length = self.range(source)
        if kind == "write":
            data = source.randbytes(length)
            os.pwrite(self.descriptor, data, offset)
            self.extend_to(offset + length)
            self.model[offset:offset + length] = data
        elif kind == "map" and self.model:
            length = min(length, len(self.model) - offset)
            data = source.randbytes(length)
            with mmap.mmap(self.descriptor, len(self.model)) as mapped:
                mapped[offset:offset + length] = data
            self.model[offset:offset + length] = data
        elif kind == "truncate":
            size = source.randint(0, LENGTH)
            os.ftruncate(self.descriptor, size)
            del self.model[size:]
            self.extend_to(size)
        elif kind == "punch" and self.model:
            punch(self.descriptor, offset, length)
            end = min(offset + length, len(self.model))
            self.model[offset:end] = bytes(end - offset)
        elif kind == "read":
            self.compare(offset, length)
        elif kind == "reopen":
            os.close(self.descriptor)
            self.descriptor = os.open(self.path, os.O_RDWR)
        elif kind == "sync":
            os.fsync(self.descriptor)

    def compare(self, offset, length):
        got, expected = os.pread(self.descriptor, length, offset), bytes(self.model[offset:offset + length])
        if got != expected:
            first = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
            sys.exit(f"{self.path}: wrong at {offset + first} (read {len(got)} of {len(expected)} bytes at {offset})")


def digest(directory):
    total = hashlib.sha256()
    for number in range(FILES):
        with open(os.path.join(directory, f"lower{number}"), "rb") as source:
            total.update(source.read())
    return total.hexdigest()


def main(mount, lower, operations, seed, volume=None, every="0"):
    source = random.Random(int(seed))
    before = digest(lower)
    files = [File(os.path.join(mount, f"lower{number}")) for number in range(FILES)]
    for number in range(1, int(operations) + 1):
        source.choice(files).step(source)
        if volume and number % int(every) == 0:
            subprocess.run([os.environ["DURDIR"], "--store", os.environ["STORE"], "snapshot", "create", volume],
                           check=True, stdout=subprocess.DEVNULL)
    for file in files:
        if os.fstat(file.descriptor).st_size != len(file.model):
            sys.exit(f"{file.path}: size {os.fstat(file.descriptor).st_size}, expected {len(file.model)}")
        file.compare(0, LENGTH)
    if digest(lower) != before:
        sys.exit("the lower was written")


main(*sys.argv[1:])
