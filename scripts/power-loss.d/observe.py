"""What is found on a mount after a loss of power."""

import os
import stat


class Found:
    """The tree of one writer: its shape as model.Tree tells it, and the content of its files."""

    def __init__(self, root):
        self.errors = []
        self.content = {}
        self.shape = self._look(root) if os.path.isdir(root) else None

    def _look(self, root):
        shape, numbers = {}, {}
        paths = []
        for directory, directories, files in os.walk(root, onerror=self._failed):
            paths += [os.path.relpath(os.path.join(directory, name), root) for name in directories + files]
        links = {}
        for path in sorted(paths):
            try:
                status = os.lstat(os.path.join(root, path))
            except OSError as error:
                self._failed(error)
                continue
            if stat.S_ISDIR(status.st_mode):
                shape[path] = "directory"
                continue
            links.setdefault(status.st_ino, []).append(status.st_nlink)
            shape[path] = (status.st_size, numbers.setdefault(status.st_ino, path))
            if numbers[status.st_ino] == path:
                self.content[path] = self._read(os.path.join(root, path), status.st_size)
        for number, counts in links.items():
            if set(counts) != {len(counts)}:
                self.errors.append(f"{numbers[number]}: {len(counts)} names, but link count {counts}")
        return shape

    def _read(self, path, size):
        """The content as a list of pages; a page that cannot be read is an error and `None`."""
        pages = []
        with open(path, "rb", buffering=0) as file:
            for offset in range(0, size, 4096):
                try:
                    pages.append(os.pread(file.fileno(), 4096, offset))
                except OSError as error:
                    self._failed(error, f"{path} at {offset}")
                    pages.append(None)
        return pages

    def _failed(self, error, where=None):
        self.errors.append(f"{where or error.filename}: {error.strerror}")
