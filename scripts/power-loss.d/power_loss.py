"""Runs durdir in guests, takes their power away, and checks what is left: power_loss.py SCRATCH KEPT ROUNDS STATES SEED [until-failure].

A round is a guest with a seed of its own. It is killed after some hundred steps; from the record of its disk's writes
come STATES states that a loss of power may have left, each of them is checked. Every third round goes on from such a
state with a second boot. DURDIR, MOUNTD, POWER_GUEST and KERNEL (an unpacked kernel package) come from the environment.

With REBOOT_UNNOTICED in the environment durdir is made to believe that the power never went, so that whatever was recorded is
taken for safe: the contract must be seen broken then.

The disk is at DISK here as in the guest, since volumes remember where their lowers are. So this program wants a mount namespace
of its own.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time

import contract
import guest
from disk import Disk, Mode, copy_sparse, lines, read_record
from model import File, PAGE, Tree, content
from observe import Found

DISK = "/mnt"
DISK_BYTES = 384 << 20
AREA_BYTES = 64 << 20
WRITERS = {"a0": 0x00000, "a1": 0x00001, "b0": 0x10000, "b1": 0x10001}
STEPS_PER_BOOT = 10_000_000
LINES_OF_SET_UP = 2
# Of work in a boot: on a machine that is busy with other things a guest does not get far.
MOST_SECONDS = 25


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def unmount(mountpoint, deadline=10):
    """Unmounts; what a process that was ended just now had open may take a moment to be let go of."""
    end = time.monotonic() + deadline
    while subprocess.run(["umount", mountpoint], capture_output=True).returncode != 0:
        if time.monotonic() > end:
            raise SystemExit(f"{mountpoint} is still busy")
        time.sleep(0.05)


def lower_file(tag, number):
    """Files of the lower: of several pages each, the last one not whole."""
    return content(tag, 0, 0, PAGE * (number * 2 + 1) - 700)


def make_disk(scratch):
    """A disk with the lower of volume b on it. Behind the filesystem there is room for what the guest tells."""
    source = os.path.join(scratch, "disk-root")
    for writer, tag in WRITERS.items():
        if writer[0] == "b":
            directory = os.path.join(source, "lower", writer)
            os.makedirs(directory)
            for number in range(6):
                with open(os.path.join(directory, f"f{number}"), "wb") as file:
                    file.write(lower_file(tag, number))
    image = os.path.join(scratch, "fresh.img")
    with open(image, "wb") as file:
        file.truncate(DISK_BYTES + AREA_BYTES)
    # Blocks of a page, or it could be torn between them. On a disk as small as this they would be smaller.
    run("mkfs.ext4", "-q", "-F", "-b", str(PAGE), "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d", source, image, str(DISK_BYTES // PAGE))
    return image


def trees_of_fresh_disk():
    def lower(tag):
        return Tree({f"f{number}": File.holding(lower_file(tag, number)) for number in range(6)}, exists=True)
    return {writer: (tag, lower(tag) if writer[0] == "b" else Tree()) for writer, tag in WRITERS.items()}


class Mounted:
    """A disk image on the host, with a mountd of our own on the store in it."""

    def __init__(self, image, scratch, boot):
        """`boot`: the boot that this one is made to look like, if any."""
        self.image, self.scratch, self.boot = image, scratch, boot
        self.store = os.path.join(DISK, "store")
        self.log = os.path.join(scratch, "mountd.log")
        self.mounts = []
        self.daemon = None

    def __enter__(self):
        run("mount", "-o", "loop", self.image, DISK)
        try:
            if self.boot is not None:
                with open(os.path.join(self.scratch, "boot"), "w") as file:
                    file.write(self.boot + "\n")
                run("mount", "--bind", file.name, guest.BOOT_ID)
            with open(self.log, "wb") as log:
                self.daemon = subprocess.Popen([os.environ["MOUNTD"], "--store", self.store, "--foreground", "--no-supervisor"],
                                               stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait(self):
        end = time.monotonic() + 60
        while self.daemon.poll() is None and time.monotonic() < end:
            # A client that met the socket of the lost machine would start a daemon of its own.
            if "mountd is ready" in self.log_text():
                return
            time.sleep(0.02)
        raise Problem(f"mountd does not come up: {self.log_text()[-1500:]}")

    def ask(self, *arguments):
        done = subprocess.run([os.environ["DURDIR"], "--store", self.store, "--json", *arguments],
                              capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    def durdir(self, *arguments):
        status, out, error = self.ask(*arguments)
        if status != 0:
            raise Problem(f"durdir {' '.join(arguments)}: exit {status}: {error.strip()} {out.strip()[:2000]}")
        return json.loads(out) if out.strip() else None

    def mount(self, volume):
        mountpoint = os.path.join(self.scratch, f"volume-{volume}")
        os.makedirs(mountpoint, exist_ok=True)
        self.durdir("mount", volume, mountpoint)
        self.mounts.append(mountpoint)
        return mountpoint

    def log_text(self):
        with open(self.log, errors="replace") as log:
            return log.read()

    def unmount_volumes(self):
        while self.mounts:
            self.durdir("umount", self.mounts.pop())

    def __exit__(self, *_):
        for mountpoint in reversed(self.mounts):
            subprocess.run(["umount", "--lazy", mountpoint], check=False, stderr=subprocess.DEVNULL)
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.terminate()
            try:
                self.daemon.wait(20)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()
        if os.path.ismount(guest.BOOT_ID):
            unmount(guest.BOOT_ID)
        unmount(DISK)


class Problem(Exception):
    """The contract is broken in a way that leaves nothing more to look at."""


class State:
    """What was found in one state; the heads are where a second boot goes on."""

    def __init__(self):
        self.problems, self.heads, self.snapshots = [], {}, {}


def check_state(image, scratch, boot, moment, tears, kept_snapshots):
    """Opens the store in an image and compares all it shows with the contract."""
    state = State()
    try:
        with Mounted(image, scratch, boot) as mounted:
            # Pages that were written for a record that was lost are nobody's: the one thing there may be to repair.
            _check_fsck(mounted, state, {"leaked-pages"}, "--repair")
            _check_trees(mounted, state, moment, tears, kept_snapshots)
            mounted.unmount_volumes()
            _check_fsck(mounted, state, set())
        loud = [line for line in mounted.log_text().splitlines() if " WARN " in line or " ERROR " in line]
        state.problems += [f"mountd: {line}" for line in loud[:5]]
    except Problem as problem:
        state.problems.append(str(problem))
    return state


def _check_fsck(mounted, state, expected, *options):
    _, out, error = mounted.ask("fsck", *options)
    if not out.strip():
        raise Problem(f"fsck: {error.strip()}")
    state.problems += [f"fsck {' '.join(options)}: {issue['kind']}: {issue['detail']}" for issue in json.loads(out)["issues"]
                       if issue["kind"] not in expected]


def _check_trees(mounted, state, moment, tears, kept_snapshots):
    volumes = {volume["name"] for volume in mounted.durdir("volume", "ls")}
    if moment.is_set_up and not {"a", "b"} <= volumes:
        state.problems.append(f"volumes were made, and there are {sorted(volumes)}")
    cuts = {}
    for volume in sorted(volumes & {"a", "b"}):
        mountpoint = mounted.mount(volume)
        writers = [writer for writer in WRITERS if writer[0] == volume]
        state.heads.update({writer: Found(os.path.join(mountpoint, writer)) for writer in writers})
        present = {snapshot["name"] for snapshot in mounted.durdir("snapshot", "ls", volume)}
        old = kept_snapshots.get(volume, {})
        known = moment.snapshots(volume)
        missing = (old.keys() | {name for name, (_, must) in known.items() if must}) - present
        unknown = present - known.keys() - old.keys()
        if missing or unknown:
            state.problems.append(f"snapshots of {volume}: missing {sorted(missing)}, unexpected {sorted(unknown)}")
        state.snapshots[volume] = {}
        for name in sorted(present - unknown):
            directory = os.path.join(mountpoint, ".snapshots", name)
            found = {writer: Found(os.path.join(directory, writer)) for writer in writers}
            state.snapshots[volume][name] = found
            if name in old:
                state.problems += [f"snapshot {volume}@{name}, {writer}: not as it was found before" for writer in writers
                                   if not contract.same(found[writer], old[name][writer])]
            else:
                cuts.setdefault(known[name][0], {}).update(found)
    state.problems += [f"head {problem}" for problem in contract.check_head(moment, state.heads, tears)]
    for command, found in cuts.items():
        label = f"snapshot {command.words[-1]}"
        state.problems += [f"{label} {problem}" for problem in contract.check_snapshot(moment, command, found, tears)]
    _check_forks(mounted, state, moment, volumes)


def _check_forks(mounted, state, moment, volumes):
    for fork, (snapshot, must) in moment.forks().items():
        if fork not in volumes:
            if must:
                state.problems.append(f"fork {fork} of {snapshot} is missing")
            continue
        volume, _, name = snapshot.partition("@")
        expected = state.snapshots.get(volume, {}).get(name)
        # The snapshot may be gone since; then the fork only has to be readable.
        mountpoint = mounted.mount(fork)
        for writer in (writer for writer in WRITERS if writer[0] == volume):
            found = Found(os.path.join(mountpoint, writer))
            if found.errors or (expected and not contract.same(found, expected[writer])):
                state.problems.append(f"fork {fork} of {snapshot}, {writer}: not what the snapshot shows {found.errors[:3]}")


class Round:
    """One guest, killed once or twice, and the states of its disk."""

    def __init__(self, scratch, kept, initramfs, fresh, seed, states):
        self.scratch, self.kept, self.initramfs, self.fresh = scratch, kept, initramfs, fresh
        self.seed, self.states = seed, states
        self.source = random.Random(seed)
        self.passed = self.failed = 0

    def path(self, name):
        return os.path.join(self.scratch, name)

    def run(self):
        boots = 2 if self.seed % 3 == 0 else 1
        base, trees, snapshots = self.fresh, trees_of_fresh_disk(), {}
        for boot in range(boots):
            going_on = self.boot(boot, base, trees, snapshots, boot + 1 < boots)
            if going_on is None:
                return
            base, state = going_on
            trees = {writer: (tag, contract.tree_of(state.heads[writer])) for writer, tag in WRITERS.items()}
            snapshots = state.snapshots

    def boot(self, boot, base, trees, snapshots, another):
        image, record, console = self.path("guest.img"), self.path("record"), self.path("console")
        copy_sparse(base, image)
        begun = time.monotonic()
        last_line = int(80 * 30 ** self.source.random())
        running = guest.Guest(os.environ["KERNEL"], self.initramfs, image, record, console, DISK_BYTES, self.seed + boot,
                              boot * STEPS_PER_BOOT)
        try:
            if not running.wait_for(LINES_OF_SET_UP, 300):
                raise SystemExit(f"the guest did not begin its work:\n{running.console_text()}")
            started = time.monotonic()
            running.wait_for(last_line, MOST_SECONDS)
        finally:
            running.kill()
        self.believed_boot = running.boot_id() if "REBOOT_UNNOTICED" in os.environ else None
        worked = time.monotonic() - started
        entries = read_record(record)
        told = contract.Told(list(lines(entries, DISK_BYTES)), trees)
        print(f"  boot {boot}: {started - begun:.0f} s to the first step, {worked:.0f} s of work: {len(told.cuts)} steps,"
              f" {len(entries)} writes and flushes, {len(told.commands)} snapshots and forks", flush=True)
        if told.failures:
            self.fail(boot, 0, 0, None, [f"in the guest: {failure}" for failure in told.failures], base)
            return None
        return self.check_states(boot, base, entries, told, snapshots, another)

    def check_states(self, boot, base, entries, told, snapshots, another):
        """Checks the states, in the order of time. Returns the last one's image and what was found, to go on from."""
        durable = self.path("durable.img")
        copy_sparse(base, durable)
        disk = Disk(durable, entries, DISK_BYTES)
        first = 0 if boot == 0 and self.source.random() < 0.2 else told.cuts[told.set_up]
        moments = range(first, len(entries) + 1)
        # Half of them anywhere, half where much is not flushed.
        anywhere = self.states // 2
        cuts = self.source.choices(moments, k=anywhere)
        cuts += self.source.choices(moments, disk.unflushed_before()[first:], k=self.states - 1 - anywhere)
        cuts = sorted(cuts) + [len(entries)]
        going_on = None
        for number, cut in enumerate(cuts):
            mode = Mode(self.source)
            if number + 1 == len(cuts) and not another:
                # What QEMU's death alone leaves: all that the guest wrote, and nothing of its memory.
                mode.kept, mode.piece = 1.0, 1 << 30
            kept_state, checked = self.path("kept.img"), self.path("checked.img")
            unflushed = disk.lose_power(cut, mode, random.Random(self.source.random()), kept_state)
            copy_sparse(kept_state, checked)
            moment = contract.Moment(told, told.position_of_cut(cut))
            state = check_state(checked, self.scratch, self.believed_boot, moment, mode.tears_pages, snapshots)
            label = f"write {cut} of {len(entries)}, {unflushed} unflushed, {mode}"
            if state.problems:
                self.fail(boot, number, cut, label, state.problems, base)
            else:
                self.passed += 1
                print(f"  ok      {label}", flush=True)
                if moment.is_set_up and not mode.tears_pages:
                    going_on = state
                    os.replace(kept_state, self.path("next.img"))
        return None if going_on is None else (self.path("next.img"), going_on)

    def fail(self, boot, number, cut, label, problems, base):
        self.failed += 1
        kept = os.path.join(self.kept, f"seed-{self.seed}-boot-{boot}-state-{number}")
        shutil.rmtree(kept, ignore_errors=True)
        os.makedirs(kept)
        print(f"  FAILED  {label or 'the workload'}, seed {self.seed}; kept in {kept}", flush=True)
        for problem in problems[:12]:
            print(f"            {problem}", flush=True)
        with open(os.path.join(kept, "problems"), "w") as out:
            out.write(f"seed {self.seed}, boot {boot}, {label}, cut {cut}\n" + "\n".join(problems) + "\n")
        for name in ("console", "mountd.log"):
            if os.path.exists(self.path(name)):
                shutil.copy(self.path(name), kept)
        copy_sparse(base, os.path.join(kept, "base.img"))
        shutil.copy(self.path("record"), kept)
        if os.path.exists(self.path("kept.img")):
            copy_sparse(self.path("kept.img"), os.path.join(kept, "state.img"))


def main(scratch, kept, rounds, states, seed, until=None):
    initramfs = os.path.join(scratch, "initramfs")
    guest.make_initramfs(initramfs, scratch, os.environ["KERNEL"],
                         [os.environ[name] for name in ("DURDIR", "MOUNTD", "POWER_GUEST")], DISK_BYTES)
    fresh = make_disk(scratch)
    passed = failed = 0
    for number in range(int(rounds)):
        began = time.monotonic()
        one = Round(scratch, kept, initramfs, fresh, int(seed) + number, int(states))
        print(f"round {number + 1} of {rounds}, seed {one.seed}", flush=True)
        one.run()
        passed, failed = passed + one.passed, failed + one.failed
        print(f"  {time.monotonic() - began:.0f} s", flush=True)
        if failed and until == "until-failure":
            break
    print(f"{passed} passed, {failed} failed")
    sys.exit(3 if failed else 0)


main(*sys.argv[1:])
