"""Compares what is found after a loss of power with what the contract allows.

The contract (docs/crash-consistency.md, "Loss of power"):
  names      are a prefix of the steps, over all writers and volumes; nothing that a sync made durable is missing
  copies     of several pages are several operations, so the last of a prefix may be there in part
  pages      show the newest content that was synced, or a later one; never zeros or other bytes instead
  replaced   a file that was renamed over another has the content it had then
  snapshots  that were acknowledged are there, and are a prefix of the steps at the cut; those removed are gone
  forks      that were acknowledged are there, and show what their snapshot shows
"""

import bisect
import copy
import struct

from model import CELL, PAGE, ZEROS, Tree


class Steps:
    """All steps of one writer in one run of the guest, and the tree after each of them."""

    def __init__(self, writer, tag, base):
        self.writer, self.tag, self.volume = writer, tag, writer[0]
        self.told, self.numbers = [], [0]
        tree = copy.deepcopy(base)
        self.tree = tree
        self.shapes, self.names = [tree.shape()], [dict(tree.names)]
        # The shapes in the middle of a step that is several operations, by how many steps were done before it.
        self.halfway = {}
        # The file that the next step copies into, likewise.
        self.copied = {}

    def add(self, position, step, words):
        self.told.append(position)
        self.numbers.append(step)
        try:
            before = self.tree.names[words[3]].size if words[0] == "copy" else 0
            self.tree.apply(self.tag, step, words)
        except KeyError as missing:
            raise SystemExit(f"{self.writer} {step} {' '.join(words)}: the model has no {missing}") from missing
        if words[0] == "copy":
            done = len(self.shapes) - 1
            self.halfway[done] = self._shapes_of_copy(words, before)
            self.copied[done] = self.tree.names[words[3]]
        self.shapes.append(self.tree.shape())
        self.names.append(dict(self.tree.names))

    def _shapes_of_copy(self, words, before):
        """What a copy that was done up to one of its pages leaves, where that is no shape from before or after it."""
        file, start, length = self.tree.names[words[3]], int(words[4]), int(words[5])
        after, shapes = file.size, []
        for size in range(start + PAGE, start + length, PAGE):
            if before < size < after:
                file.size = size
                shapes.append(self.tree.shape())
        file.size = after
        return shapes

    def begun_before(self, position):
        """How many steps had begun before a line was told."""
        return bisect.bisect_left(self.told, position)

    def done_before(self, position):
        """How many steps were done for sure: the line of the step after them was told."""
        return max(bisect.bisect_right(self.told, position) - 1, 0)


class Command:
    """A snapshot, fork or removal: when it was begun and, perhaps, done."""

    def __init__(self, begun, words):
        self.begun, self.words, self.done = begun, words, None


class Told:
    """Everything a guest told outside, in order. Positions are indices of lines."""

    def __init__(self, lines, bases):
        """`bases`: the tree of each writer to begin with."""
        self.cuts = []
        self.writers = {writer: Steps(writer, tag, tree) for writer, (tag, tree) in bases.items()}
        self.commands = []
        self.syncs = []
        self.failures = []
        self.set_up = None
        for position, (record_position, line) in enumerate(lines):
            self.cuts.append(record_position)
            who, step, *words = line.split(" ")
            if words[0] == "failed:":
                self.failures.append(line)
            elif who == "setup":
                self.set_up = position if words == ["done"] else None
            elif who == "s" and words == ["done"]:
                self.commands[-1].done = position
            elif who == "s":
                self.commands.append(Command(position, words))
            else:
                if words[0] in ("fsync", "fsyncdir"):
                    self.syncs.append((position, who))
                self.writers[who].add(position, int(step), words)

    def position_of_cut(self, cut):
        """The first line that was not told before entry `cut` of the record."""
        return bisect.bisect_left(self.cuts, cut)


class Moment:
    """What was told when the power went: what has to be there, and what may be."""

    def __init__(self, told, end):
        self.told, self.end = told, end
        self.names_floor = {writer: 0 for writer in told.writers}
        self.data_floor = dict(self.names_floor)
        for begun, writer in told.syncs:
            steps = told.writers[writer]
            if steps.begun_before(end) > steps.begun_before(begun) + 1:
                self._durable(begun, steps.volume)
        for command in self.commands():
            if self.is_done(command):
                self._durable(command.begun, None)

    def _durable(self, begun, volume):
        """All that was done before `begun` has its records on the disk; of `volume`, its data too."""
        for writer, steps in self.told.writers.items():
            done = steps.done_before(begun)
            self.names_floor[writer] = max(self.names_floor[writer], done)
            if steps.volume == volume:
                self.data_floor[writer] = max(self.data_floor[writer], done)

    def commands(self):
        return [command for command in self.told.commands if command.begun < self.end]

    def is_done(self, command):
        return command.done is not None and command.done < self.end

    @property
    def is_set_up(self):
        return self.told.set_up is not None and self.told.set_up < self.end

    def snapshots(self, volume):
        """Maps the names of snapshots that must or may exist to (their command, whether they must)."""
        known = {}
        for command in self.commands():
            kind, what, *arguments = command.words
            if (kind, what) == ("snapshot", "create") and volume in arguments[:arguments.index("--name")]:
                known[arguments[-1]] = (command, self.is_done(command))
            elif (kind, what) == ("snapshot", "rm") and arguments[0].startswith(volume + "@"):
                name = arguments[0].partition("@")[2]
                if self.is_done(command):
                    known.pop(name, None)
                elif name in known:
                    known[name] = (known[name][0], False)
        return known

    def forks(self):
        """Maps names of forks to (the snapshot they were made of, whether they must exist)."""
        return {command.words[2]: (command.words[1], self.is_done(command))
                for command in self.commands() if command.words[0] == "fork"}


class Verdict:
    """Where one tree stands among the steps, or why nowhere: it shows a part of step `low`, and all up to `high`."""

    def __init__(self, low=None, high=None, problems=()):
        self.low, self.high, self.problems = low, high, list(problems)


def check_head(moment, found, tears):
    """Checks the heads: `found` maps writers to observe.Found. Returns a list of problems."""
    def bounds(writer, steps):
        return moment.names_floor[writer], steps.begun_before(moment.end)
    return _check(moment, found, bounds, moment.end, tears)


def check_snapshot(moment, command, found, tears):
    """Checks the trees of one cut."""
    def bounds(writer, steps):
        until = command.done if moment.is_done(command) else moment.end
        return steps.done_before(command.begun), steps.begun_before(until)
    return _check(moment, found, bounds, None, tears)


def _check(moment, found, bounds, end, tears):
    problems, places = [], {}
    for writer, tree in found.items():
        steps = moment.told.writers[writer]
        low, high = bounds(writer, steps)
        # Data in a head may be that of a step whose record was lost; a snapshot keeps what came later away.
        newest = None if end is None else steps.numbers[steps.begun_before(end)]
        verdict = _place(steps, tree, low, high, moment.data_floor[writer], newest, tears)
        problems += [f"{writer}: {problem}" for problem in verdict.problems]
        if verdict.low is not None:
            places[writer] = verdict
    for writer, verdict in places.items():
        if verdict.low == 0:
            continue
        began = moment.told.writers[writer].told[verdict.low - 1]
        for other, place in places.items():
            needed = moment.told.writers[other].done_before(began)
            if place.high < needed:
                problems.append(f"{writer} shows its step {verdict.low}, which began after step {needed} of {other}"
                                f" was done, but {other} ends at step {place.high}")
    return problems


def _place(steps, found, low, high, floor, newest, tears):
    """Finds the prefix of the steps that a tree shows."""
    if found.errors:
        return Verdict(problems=found.errors)
    matching = [count for count in range(low, high + 1) if steps.shapes[count] == found.shape]
    if not matching:
        for done in range(low, high):
            if found.shape in steps.halfway.get(done, []):
                return Verdict(done + 1, done, _pages(steps, found, done + 1, floor, newest, tears))
        return Verdict(problems=[_no_prefix(steps, found, low, high)])
    failed = []
    for count in reversed(matching):
        problems = _pages(steps, found, count, floor, newest, tears)
        if not problems:
            return Verdict(matching[0], matching[-1])
        failed.append(problems)
    return Verdict(matching[0], matching[-1], min(failed, key=len))


def _no_prefix(steps, found, low, high):
    elsewhere = [count for count, shape in enumerate(steps.shapes) if shape == found.shape]
    if elsewhere:
        return f"the names are those after {elsewhere[0]} to {elsewhere[-1]} steps, not after {low} to {high}"
    if found.shape is None:
        return f"the directory is missing, after {low} to {high} steps"

    def differences(count):
        shape = steps.shapes[count] or {}
        return [path for path in sorted(shape.keys() | found.shape.keys()) if shape.get(path) != found.shape.get(path)]
    nearest = min(range(low, high + 1), key=lambda count: len(differences(count)))
    shape = steps.shapes[nearest] or {}
    told = "; ".join(f"{path}: {found.shape.get(path)} instead of {shape.get(path)}" for path in differences(nearest)[:6])
    return f"the names are no prefix of the steps; nearest after {nearest} (of {low} to {high}): {told}"


def _pages(steps, found, count, floor, newest, tears):
    problems = []
    last = steps.numbers[count]
    for path, pages in found.content.items():
        file = steps.names[count][path]
        synced = max([steps.numbers[floor]] + [step for step in file.synced_by_rename if step <= last])
        if newest is None:
            synced = min(synced, last)
        until = newest or last
        if steps.copied.get(count) is file:
            # A part of the copy may be there that leaves the size as it is.
            until = max(until, steps.numbers[count + 1])
        for number, page in enumerate(pages):
            history = file.pages.get(number, [(0, ZEROS)])
            allowed = _allowed(history, synced, until)
            if any(data[:len(page)] == page for _, data in allowed):
                continue
            if tears and _is_torn(page, allowed):
                continue
            problems.append(f"{path} page {number} after {count} steps (step {last}): {_describe(page, history)};"
                            f" allowed are steps {[step for step, _ in allowed][:8]}")
    return problems


def _allowed(history, synced, newest):
    first = max(bisect.bisect_right(history, synced, key=lambda entry: entry[0]) - 1, 0)
    return [entry for entry in history[first:] if entry[0] <= newest]


def _is_torn(page, allowed):
    return all(any(data[at:at + 512][:len(page) - at] == page[at:at + 512] for _, data in allowed)
               for at in range(0, len(page), 512))


def _describe(page, history):
    for step, data in history:
        if data[:len(page)] == page:
            return f"shows step {step}{' (zeros)' if not any(page) else ''}"
    if not any(page):
        return "zeros"
    parts = {"zeros" if not any(page[at:at + CELL]) else "tag %#x step %d cell %d" % struct.unpack("<IIQ", page[at:at + CELL])
             for at in range(0, len(page) - CELL + 1, CELL * 8)}
    return f"shows {len(parts)} kinds of bytes, {sorted(parts)[:3]}"


def same(one, other):
    """Tells whether two trees were found equal."""
    return (one.shape, one.content, one.errors) == (other.shape, other.content, other.errors)


def tree_of(found):
    """The tree that was found, as what the next boot begins with."""
    from model import File
    if found.shape is None:
        return Tree()
    files = {path: File.holding(b"".join(pages)) for path, pages in found.content.items()}
    names = {path: None if what == "directory" else files[what[1]] for path, what in found.shape.items()}
    return Tree(names, exists=True)
