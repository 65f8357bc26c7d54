"""The disk of the guest: its record of writes, and the states that a loss of power may leave.

QEMU's blklogwrites filter records every write and flush in order, in the format of the kernel's dm-log-writes. What
stood in the record before a flush is on the disk. Of what came after the last flush, any part may be: a disk keeps
writes in its cache, and writes them out in whatever order suits it.
"""

import os
import random
import shutil
import struct

SECTOR = 512
SUPERBLOCK_END = 2048
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD = 1, 2, 4


class Write:
    """An entry of the record."""

    def __init__(self, offset, data, flags):
        self.offset, self.data, self.flags = offset, data, flags


def read_record(path):
    """Returns the entries of a record whose writer may have been killed: up to the first that is not whole."""
    with open(path, "rb") as record:
        magic, _, _, sector_size = struct.unpack("<QQQI", record.read(28))
        if magic != MAGIC or sector_size != SECTOR:
            raise SystemExit(f"{path} is no record of writes")
        record.seek(SECTOR)
        entries = []
        while len(header := record.read(SECTOR)) == SECTOR:
            sector, sectors, flags, _ = struct.unpack("<QQQQ", header[:32])
            if (sector, sectors, flags) == (0, 0, 0):
                break
            length = 0 if flags & DISCARD else sectors * SECTOR
            data = record.read(length)
            if len(data) < length:
                break
            entries.append(Write(sector * SECTOR, data, flags))
    return entries


def lines(entries, area):
    """Yields (position in the record, line) of what the guest told outside of its filesystem."""
    for position, entry in enumerate(entries):
        if entry.offset >= area:
            for at in range(0, len(entry.data), SECTOR):
                text = entry.data[at:at + SECTOR].rstrip(b"\0").decode(errors="replace")
                if text:
                    yield position, text


class Mode:
    """How much of what was not flushed reached the disk, and in what pieces it came apart."""

    def __init__(self, source):
        self.kept = source.choice((0.0, 0.1, 0.5, 0.5, 0.9, 1.0))
        self.piece = source.choice((4096, 4096, 1 << 30, SECTOR))

    @property
    def tears_pages(self):
        return self.piece < 4096

    def __str__(self):
        pieces = {4096: "pages", 1 << 30: "requests", SECTOR: "sectors"}[self.piece]
        return f"{self.kept:.0%} of unflushed {pieces} kept"


class Disk:
    """A disk as it was flushed up to some entry of its record; it only moves forward."""

    def __init__(self, image, entries, area):
        self.image, self.entries, self.area = image, entries, area
        self.applied = 0

    def unflushed_before(self):
        """For each moment, how many writes wait for a flush then."""
        counts = [0]
        for entry in self.entries:
            waits = bool(entry.data) and entry.offset < self.area
            counts.append(0 if entry.flags & FLUSH else counts[-1] + waits)
        return counts

    def _apply(self, descriptor, entry, keep=None, piece=1 << 30):
        if entry.offset >= self.area:
            return
        at = 0
        while at < len(entry.data):
            # A superblock in two halves is a filesystem that cannot be mounted: of that ext4 makes no promise.
            size = max(piece, SUPERBLOCK_END) if entry.offset + at < SUPERBLOCK_END else piece
            if keep is None or keep():
                os.pwrite(descriptor, entry.data[at:at + size], entry.offset + at)
            at += size

    def lose_power(self, cut, mode, source, target):
        """Writes into the file `target` what the disk may hold if the power goes before entry `cut`.

        Returns the number of writes that were not flushed.
        """
        flushed = max((at + 1 for at in range(self.applied, cut) if self.entries[at].flags & FLUSH),
                      default=self.applied)
        disk = os.open(self.image, os.O_WRONLY)
        for entry in self.entries[self.applied:flushed]:
            self._apply(disk, entry)
        os.close(disk)
        self.applied = flushed
        copy_sparse(self.image, target)
        disk = os.open(target, os.O_WRONLY)
        pending = [entry for entry in self.entries[flushed:cut] if entry.offset < self.area and entry.data]
        for entry in pending:
            keep = None if entry.flags & FUA else lambda: source.random() < mode.kept
            self._apply(disk, entry, keep, mode.piece)
        os.close(disk)
        return len(pending)


def copy_sparse(source, target):
    """Copies what a sparse file holds."""
    with open(source, "rb") as old, open(target, "wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        at = 0
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(old.fileno(), at, os.SEEK_HOLE)
            old.seek(at)
            new.seek(at)
            while at < end:
                piece = old.read(min(end - at, 1 << 20))
                new.write(piece)
                at += len(piece)
