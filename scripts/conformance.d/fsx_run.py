"""Runs fsx on a file, with snapshots while it works.

  fsx_run.py FILE OPERATIONS SEED LOG [VOLUME EVERY]

Without VOLUME fsx runs alone. With it, a snapshot is taken each time fsx has done EVERY more operations, and
fsx goes on meanwhile. Before every tenth snapshot fsx is stopped, so that the file has known contents: these
snapshots are kept, and each must still show exactly those contents at the end. The others are removed as
the run goes on, which makes space reclaim run under the same load.

A long run is made of several, each with the next seed: fsx 0.3.2 never unmaps what it has read through a mapping, and with a
hundred thousand mappings of its file each truncation takes as long as a thousand operations did at first, on any file system.

DURDIR and STORE come from the environment.
"""

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
F_SETPIPE_SZ = 1031
KEEP_EVERY = 10
REMOVE_AT = 40
MOST_AT_ONCE = 50_000


def durdir(*arguments):
    done = subprocess.run([os.environ["DURDIR"], "--store", os.environ["STORE"], "--json", *arguments],
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"durdir {' '.join(arguments)}: exit {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout) if done.stdout.strip() else None


def digest(path):
    with open(path, "rb") as source:
        return hashlib.sha256(source.read()).hexdigest()


def stop(process):
    """Returns once fsx changes nothing any more: stopped, or at its end, which may come before its last lines are read."""
    process.send_signal(signal.SIGSTOP)
    while process.poll() is None:
        with open(f"/proc/{process.pid}/stat") as stat:
            if stat.read().rpartition(")")[2].split()[0] == "T":
                return
        time.sleep(0.0005)


class Snapshots:
    """Takes the snapshots, remembers what the kept ones must hold, removes the rest."""

    def __init__(self, volume, path):
        self.volume, self.path = volume, path
        self.kept, self.passing, self.taken, self.held = {}, [], 0, []

    def take(self, process):
        self.taken += 1
        name = f"at-{self.taken}"
        keep = self.taken % KEEP_EVERY == 0
        if keep:
            stop(process)
            self.kept[name] = digest(self.path)
        answer = durdir("snapshot", "create", self.volume, "--name", name)
        self.held.append(answer["cut"]["held_us"])
        if keep:
            process.send_signal(signal.SIGCONT)
        else:
            self.passing.append(f"{self.volume}@{name}")
            if len(self.passing) == REMOVE_AT:
                durdir("snapshot", "rm", *self.passing)
                self.passing = []

    def check(self):
        directory, name = os.path.split(self.path)
        wrong = [snapshot for snapshot, expected in self.kept.items()
                 if digest(os.path.join(directory, ".snapshots", snapshot, name)) != expected]
        if wrong:
            raise SystemExit(f"snapshots no longer show what the file held at their cut: {', '.join(wrong)}")


def follow(process, log, every, on_step):
    """Reads fsx's line per operation; the small pipe keeps fsx from running ahead of us by more than some dozen."""
    fcntl.fcntl(process.stderr, F_SETPIPE_SZ, 4096)
    operations, recent = 0, []
    for line in process.stderr:
        recent.append(line)
        if len(recent) > 4000:
            del recent[:2000]
        if line.startswith("[INFO"):
            operations += 1
            if operations % every == 0:
                on_step()
    with open(log, "w") as out:
        out.writelines(recent)
    return operations


def runs(operations, seed):
    """Yields the length and the seed of each run."""
    left = int(operations)
    while left > 0:
        yield min(left, MOST_AT_ONCE), seed
        left, seed = left - MOST_AT_ONCE, seed + 1


def main(path, operations, seed, log, volume=None, every="0"):
    snapshots = Snapshots(volume, path) if volume else None
    done = 0
    for length, seed in runs(operations, int(seed)):
        command = ["fsx", "-f", os.path.join(HERE, "fsx.toml"), "-N", str(length), "-S", str(seed),
                   "-P", os.path.dirname(log)]
        if snapshots is None:
            with open(log, "w") as out:
                status = subprocess.run(command + [path], stdout=out, stderr=out).returncode
        else:
            seen, status = run_beside(command + ["-v", path], log, int(every), snapshots)
            done += seen
        if status != 0:
            raise SystemExit(f"fsx failed with status {status}; {length} operations, seed {seed}, log {log}")
    if snapshots is None:
        return
    snapshots.check()
    held = sorted(snapshots.held)
    print(f"  {done} operations seen, {snapshots.taken} snapshots, {len(snapshots.kept)} of them compared;"
          f" held p50 {held[len(held) // 2]} µs, longest {held[-1]} µs")


def run_beside(command, log, every, snapshots):
    """Runs fsx with snapshots beside it. Returns how many operations were seen, and its status."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        seen = follow(process, log, every, lambda: snapshots.take(process))
        return seen, process.wait()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


main(*sys.argv[1:])
