"""What the volumes must hold: the steps of the workload, done again in memory.

A file remembers every content that each of its pages ever had, so that a page that is found after a loss of power can
be looked up in its history.
"""

import struct

PAGE = 4096
CELL = 16
ZEROS = bytes(PAGE)


def content(tag, step, offset, length):
    """The bytes that a step writes, as tests/power/content.rs makes them."""
    first, last = offset // CELL, -(-(offset + length) // CELL)
    head = struct.pack("<II", tag, step & 0xFFFFFFFF)
    data = b"".join(head + struct.pack("<Q", cell) for cell in range(first, last))
    skip = offset - first * CELL
    return data[skip:skip + length]


class File:
    """A regular file: its size now, and the history of each page as a list of (step, content)."""

    def __init__(self):
        self.size = 0
        self.pages = {}
        # Steps after which everything before them was on the disk if they are in the namespace at all.
        self.synced_by_rename = []

    @staticmethod
    def holding(data):
        file = File()
        file.size = len(data)
        for at in range(0, len(data), PAGE):
            file.pages[at // PAGE] = [(0, data[at:at + PAGE].ljust(PAGE, b"\0"))]
        return file

    def page(self, number):
        history = self.pages.get(number)
        return history[-1][1] if history else ZEROS

    def _set(self, step, number, data):
        self.pages.setdefault(number, [(0, ZEROS)]).append((step, data))

    def put(self, step, offset, data):
        at = 0
        while at < len(data):
            number, skip = divmod(offset + at, PAGE)
            piece = data[at:at + PAGE - skip]
            old = self.page(number)
            self._set(step, number, old[:skip] + piece + old[skip + len(piece):])
            at += len(piece)
        self.size = max(self.size, offset + len(data))

    def zero(self, step, offset, end):
        """Zeros in what is there: pages that never held anything have no history to add to."""
        for number in list(self.pages):
            start = number * PAGE
            low, high = max(offset - start, 0), min(end - start, PAGE)
            if low < high and any(self.page(number)[low:high]):
                old = self.page(number)
                self._set(step, number, old[:low] + bytes(high - low) + old[high:])

    def truncate(self, step, size):
        if size < self.size:
            self.zero(step, size, self.size + PAGE)
        self.size = size

    def read(self, offset, length):
        data = b""
        while len(data) < length:
            number, skip = divmod(offset + len(data), PAGE)
            data += self.page(number)[skip:skip + length - len(data)]
        return data


class Tree:
    """The directory of one writer. Paths are relative to it; a directory is `None`."""

    def __init__(self, names=None, exists=False):
        self.names = names or {}
        self.exists = exists

    def apply(self, tag, step, words):
        """Does one step of the workload."""
        kind, arguments = words[0], words[1:]
        names = self.names
        if kind == "begin":
            self.exists = True
        elif kind == "create":
            names[arguments[0]] = File()
        elif kind == "write":
            offset, length = map(int, arguments[1:])
            names[arguments[0]].put(step, offset, content(tag, step, offset, length))
        elif kind == "truncate":
            names[arguments[0]].truncate(step, int(arguments[1]))
        elif kind == "punch":
            offset, length = map(int, arguments[1:])
            file = names[arguments[0]]
            file.zero(step, offset, min(offset + length, file.size + PAGE))
        elif kind == "copy":
            source, from_offset, target, to_offset, length = arguments
            data = names[source].read(int(from_offset), int(length))
            names[target].put(step, int(to_offset), data)
        elif kind == "rename":
            source, target = arguments
            if names[source] is None:
                for path in [path for path in names if path.startswith(source + "/")]:
                    names[target + path[len(source):]] = names.pop(path)
            elif target in names:
                names[source].synced_by_rename.append(step)
            names[target] = names.pop(source)
        elif kind == "exchange":
            one, other = arguments
            names[one], names[other] = names[other], names[one]
        elif kind == "link":
            names[arguments[1]] = names[arguments[0]]
        elif kind in ("unlink", "rmdir"):
            del names[arguments[0]]
        elif kind == "mkdir":
            names[arguments[0]] = None
        elif kind not in ("fsync", "fsyncdir"):
            raise SystemExit(f"the workload did something unknown: {' '.join(words)}")

    def shape(self):
        """Names, kinds, sizes, and which names are one file: what has to be a prefix of the steps."""
        if not self.exists:
            return None
        numbers = {}
        return {path: "directory" if file is None else (file.size, numbers.setdefault(id(file), path))
                for path, file in sorted(self.names.items())}
