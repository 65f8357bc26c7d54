"""Looks into the demo's snapshots, and formats what durdir answers in JSON.

  inspect.py cut CUT.json CALL_MS         one line for a snapshot that was just taken
  inspect.py states SCRATCH SNAPSHOTS NAME...   what each snapshot holds; fails if one is not consistent
  inspect.py diff DIFF.json               a diff in a few lines
  inspect.py sizes VOLUME.json SNAPSHOTS.json
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter


def load(path):
    with open(path) as source:
        return json.load(source)


def human(size):
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def show_cut(cut_file, call_ms):
    answer = load(cut_file)
    cut, snapshot = answer["cut"], answer["snapshots"][0]
    print(f"  {snapshot['name']:<9} {snapshot['snapshot']:<12} held {cut['held_us']:>6} µs"
          f"   sync {cut['sync_us']:>6} µs   whole call {call_ms:>4} ms")


def ledger_state(scratch, directory):
    """The ledger as sqlite recovers it from the snapshot's files: a read-only copy cannot be opened in WAL mode."""
    copy = os.path.join(scratch, "ledger")
    shutil.rmtree(copy, ignore_errors=True)
    os.makedirs(copy)
    for name in ("ledger.db", "ledger.db-wal"):
        source = os.path.join(directory, name)
        if os.path.exists(source):
            shutil.copyfile(source, os.path.join(copy, name))
    connection = sqlite3.connect(os.path.join(copy, "ledger.db"))
    verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
    bookings, balance = 0, 0
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if "booking" in tables:
        bookings = connection.execute("SELECT count(*) FROM booking").fetchone()[0]
        balance = connection.execute("SELECT coalesce(sum(balance), 0) FROM account").fetchone()[0]
    connection.close()
    return bookings, verdict == "ok" and balance == 0


def git_state(directory):
    """Counts the commits, and proves that every object they reach is there."""
    git = ["git", "-c", "safe.directory=*", "-C", os.path.join(directory, "checkout")]
    commits = subprocess.run(git + ["rev-list", "--count", "HEAD"], capture_output=True, text=True)
    objects = subprocess.run(git + ["rev-list", "--objects", "HEAD"], capture_output=True)
    complete = commits.returncode == 0 and objects.returncode == 0
    return int(commits.stdout or 0), complete


def show_states(scratch, snapshots, *names):
    before = (0, 0)
    for name in names:
        directory = os.path.join(snapshots, name)
        commits, complete = git_state(directory)
        bookings, sound = ledger_state(scratch, directory)
        forward = commits >= before[0] and bookings >= before[1]
        before = (commits, bookings)
        print(f"  {name:<9} {commits:>4} commits, {'all objects there' if complete else 'OBJECTS MISSING'};"
              f"  {bookings:>5} bookings, {'database sound, sums to 0' if sound else 'DATABASE DAMAGED'}"
              f"{'' if forward else '  WENT BACK'}")
        if not (complete and sound and forward):
            sys.exit(f"snapshot {name} is not a consistent state")


def show_diff(diff_file):
    changes = load(diff_file)
    counts = Counter(change["change"] for change in changes)
    print("  " + ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    shown = [change for change in changes if "/.git/" not in change["path"] and not change["path"].endswith("/.git")]
    for change in shown[:15]:
        origin = f" (from {change['from']})" if change["from"] else ""
        print(f"  {change['change']:<9} {change['path']}{origin}  {human(change['bytes_changed'])}")
    hidden = len(changes) - len(shown[:15])
    if hidden:
        print(f"  … and {hidden} more, most of them git objects")
    if not changes:
        sys.exit("the two sandboxes worked, and yet their volumes do not differ")


def show_sizes(volumes_file, snapshots_file):
    for volume in load(volumes_file):
        print(f"  volume {volume['name']:<8} {human(volume['used_bytes']):>10} in {volume['used_inodes']} inodes"
              f"{'   forked from ' + str(volume['parent']) if volume['parent'] else ''}")
    for snapshot in load(snapshots_file):
        print(f"  snapshot {snapshot['name'] or snapshot['snapshot']:<9} {human(snapshot['exclusive_bytes']):>10} of its own,"
              f" {human(snapshot['shared_bytes']):>10} shared, {snapshot['files_changed']} files changed")


def show_phases(actor_file):
    phases = load(actor_file)["phases_ms"]
    print("    " + ", ".join(f"{phase} {milliseconds:.1f} ms" for phase, milliseconds in phases.items()))


COMMANDS = {"cut": show_cut, "phases": show_phases, "states": show_states, "diff": show_diff, "sizes": show_sizes}
COMMANDS[sys.argv[1]](*sys.argv[2:])
