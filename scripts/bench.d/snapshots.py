"""Shows that a snapshot costs the same whatever the volume holds: snapshots.py OPTIONS.

Run by scripts/bench-snapshots, which starts the daemon and the btrfs it is compared with. Writes the results as
JSON and markdown, and exits with 1 if a goal is missed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time

WRITERS = 2


def percentile(values, p):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))]


def documents(text):
    """The JSON documents that successive calls printed, one after the other."""
    decoder, position = json.JSONDecoder(), 0
    while position < len(text):
        while position < len(text) and text[position].isspace():
            position += 1
        if position < len(text):
            document, position = decoder.raw_decode(text, position)
            yield document


class Writers:
    """Two writers at work in a directory, as long as the block lasts."""

    def __init__(self, run, directory):
        self.run, self.directory = run, directory

    def __enter__(self):
        self.processes = [
            subprocess.Popen([self.run.options.micro, "churn", os.path.join(self.directory, f"writer{n}"), "500", "3600"],
                             stdout=subprocess.DEVNULL)
            for n in range(WRITERS)]
        time.sleep(0.3)
        return self

    def __exit__(self, *_):
        ended = [process.poll() for process in self.processes]
        for process in self.processes:
            process.terminate()
            process.wait()
        if any(status is not None for status in ended):
            sys.exit(f"a writer ended before it was told to: {ended}")


class Run:
    def __init__(self, options):
        self.options = options
        quick = options.quick
        self.few, self.many = 1000, 50_000 if quick else 1_000_000
        self.big_mib = 512 if quick else 10 * 1024
        self.rounds, self.calls_per_round = (2, 50) if quick else (5, 100)
        self.storm = 500 if quick else 10_000
        self.million = 50_000 if quick else 1_000_000
        self.results, self.goals = {}, []

    # --- tools ------------------------------------------------------------------------------------

    def durdir(self, *arguments, store=None):
        done = subprocess.run([self.options.durdir, "--store", store or self.options.store, "--json", *arguments],
                              capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"durdir {' '.join(arguments)}: exit {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def mount(self, volume, *options, store=None):
        store = store or self.options.store
        mountpoint = os.path.join(self.options.work, f"mnt-{os.path.basename(store)}-{volume}")
        os.makedirs(mountpoint, exist_ok=True)
        self.durdir("mount", volume, mountpoint, *options, store=store)
        return mountpoint

    def micro(self, *arguments):
        done = subprocess.run([self.options.micro, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr.strip() or f"micro {arguments}: exit {done.returncode}")
        return {name: (int(count), int(nanoseconds) / 1e9)
                for name, count, nanoseconds in (line.split() for line in done.stdout.splitlines())}

    def cuts(self, volume, count, pause_ms, changed="-", store=None):
        """Takes snapshots as a user would, by the command: (held µs of each, whole call ms of each)."""
        output, times = (os.path.join(self.options.work, name) for name in ("cuts.json", "cuts.times"))
        for path in (output, times):
            if os.path.exists(path):
                os.unlink(path)
        self.micro("calls", count, pause_ms, changed, output, times, "--",
                   self.options.durdir, "--store", store or self.options.store, "--json", "snapshot", "create", volume)
        with open(output) as source:
            held = [document["cut"]["held_us"] for document in documents(source.read())]
        with open(times) as source:
            calls = [int(line) / 1e6 for line in source]
        return held, calls

    def drop_caches(self, what):
        os.sync()
        for _ in range(3):
            with open("/proc/sys/vm/drop_caches", "w") as drop:
                drop.write(str(what))

    def memory_mib(self):
        """Resident memory of the daemon: the process we were given and all it started."""
        total, pids = 0, [self.options.daemon_pid]
        while pids:
            pid = pids.pop()
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/children") as children:
                        pids += map(int, children.read().split())
                with open(f"/proc/{pid}/status") as status:
                    total += sum(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
            except FileNotFoundError:
                continue
        return total / 1024

    def goal(self, text, value, limit, unit=""):
        met = value <= limit
        self.goals.append({"goal": text, "value": value, "limit": limit, "unit": unit, "met": met})
        print(f"  {'met   ' if met else 'MISSED'}  {text}: {value:.3g}{unit} (limit {limit:g}{unit})", flush=True)

    def say(self, text):
        print(f"  {text}", flush=True)

    # --- the parts --------------------------------------------------------------------------------

    def constant_time(self):
        volumes = {"small": f"{self.few:,} files, 1 MiB", "files": f"{self.many:,} files, 1 MiB",
                   "data": f"{self.few:,} files, {self.big_mib:,} MiB"}
        mounts = {volume: self.mount(volume, "--create") for volume in volumes}
        for volume, mountpoint in mounts.items():
            start = time.monotonic()
            self.micro("tree", mountpoint, self.many if volume == "files" else self.few)
            pieces = 16 if volume == "data" else 1
            self.micro("data", mountpoint, pieces, self.big_mib // pieces if volume == "data" else 1)
            self.say(f"{volume}: {volumes[volume]}, filled in {time.monotonic() - start:.0f} s")
        held, calls = {volume: [] for volume in volumes}, {volume: [] for volume in volumes}
        for round_number in range(-1, self.rounds):
            for volume, mountpoint in mounts.items():
                with Writers(self, mountpoint):
                    one_held, one_calls = self.cuts(volume, 20 if round_number < 0 else self.calls_per_round, 5)
                if round_number >= 0:
                    held[volume] += one_held
                    calls[volume] += one_calls
        table = {}
        for volume, description in volumes.items():
            table[volume] = {
                "holds": description, "snapshots": len(held[volume]),
                "held_p50_us": percentile(held[volume], 50), "held_p99_us": percentile(held[volume], 99),
                "call_p50_ms": percentile(calls[volume], 50), "call_p99_ms": percentile(calls[volume], 99)}
            self.say(f"{description}: " + ", ".join(f"{key} {value:.4g}" for key, value in table[volume].items()
                                                    if key not in ("holds", "snapshots")))
        self.results["constant_time"] = table
        for volume, row in table.items():
            self.goal(f"held p99, {row['holds']}", row["held_p99_us"], 1000, " µs")
            self.goal(f"whole call p99, {row['holds']}", row["call_p99_ms"], 20, " ms")
        for volume in ("files", "data"):
            for key, what in (("held_p50_us", "held p50"), ("held_p99_us", "held p99"),
                              ("call_p50_ms", "whole call p50"), ("call_p99_ms", "whole call p99")):
                self.goal(f"{what}, {table[volume]['holds']} against {table['small']['holds']}",
                          table[volume][key] / max(table["small"][key], 1e-9), 1.3, "×")
        self.compare(mounts, table)
        for volume, mountpoint in mounts.items():
            self.durdir("umount", mountpoint)

    def compare(self, mounts, table):
        """The same trees by the usual means: a tar of the tree, a btrfs snapshot with the same two writers."""
        rows = {}
        for volume in ("files", "data"):
            target = os.path.join(self.options.work, "tree.tar")
            start = time.monotonic()
            with open(target, "wb") as out:
                subprocess.run(["tar", "--create", "--directory", mounts[volume], "--exclude", "./.snapshots", "--file", "-", "."],
                               stdout=out, stderr=subprocess.DEVNULL, check=True)
            rows[f"tar of {table[volume]['holds']}"] = {"seconds": time.monotonic() - start}
            os.unlink(target)
        for volume in ("small", "files", "data"):
            subvolume = os.path.join(self.options.btrfs, volume)
            subprocess.run(["btrfs", "--quiet", "subvolume", "create", subvolume], check=True, stdout=subprocess.DEVNULL)
            self.micro("tree", subvolume, self.many if volume == "files" else self.few)
            pieces = 16 if volume == "data" else 1
            self.micro("data", subvolume, pieces, self.big_mib // pieces if volume == "data" else 1)
            times = []
            with Writers(self, subvolume):
                for number in range(30):
                    start = time.monotonic()
                    subprocess.run(["btrfs", "--quiet", "subvolume", "snapshot", "-r", subvolume, f"{subvolume}-{number}"],
                                   check=True, stdout=subprocess.DEVNULL)
                    times.append((time.monotonic() - start) * 1e3)
                    time.sleep(0.005)
            rows[f"btrfs snapshot of {table[volume]['holds']}"] = {
                "call_p50_ms": percentile(times, 50), "call_p99_ms": percentile(times, 99)}
        for name, row in rows.items():
            self.say(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
        self.results["compared"] = rows

    def snapshot_storm(self):
        """Two stores with the same files: thousands of snapshots in one, then both are asked in turn."""
        files = 2000 if self.options.quick else 10_000
        stores = {"calm": self.options.calm_store, "stormed": self.options.store}
        mounts = {}
        for which, store in stores.items():
            mounts[which] = self.mount("storm", "--create", store=store)
            self.micro("fill", mounts[which], files, 4096)

        def cuts(which, count):
            return self.cuts("storm", count, 0, os.path.join(mounts[which], "changed"), stores[which])

        def lookups(which):
            """Cold lookups: with nothing in the kernel's caches each is answered by the daemon."""
            self.drop_caches(2)
            # The kernel lets go of both mounts' files in the background.
            time.sleep(0.5)
            count, seconds = self.micro("walk", mounts[which], files)["walk"]
            return seconds / count * 1e6

        # By then both stores have turned their log over, and what is looked up lies in tables.
        for which in stores:
            cuts(which, 100)
        start = time.monotonic()
        cuts("stormed", self.storm)
        took = time.monotonic() - start
        held, calls, looked_up = ({which: [] for which in stores} for _ in range(3))
        for _ in range(15):
            for which in stores:
                times = cuts(which, 40)
                held[which] += times[0]
                calls[which] += times[1]
                looked_up[which].append(lookups(which))
        listing = time.monotonic()
        count = len(self.durdir("snapshot", "ls", "storm"))
        listing = time.monotonic() - listing
        self.results["storm"] = {"snapshots": self.storm, "seconds": took, "snapshots_listed": count, "listing_seconds": listing}
        for what, unit, values in (("lookup", "us", looked_up), ("held_p50", "us", held), ("call_p50", "ms", calls)):
            for which in stores:
                self.results["storm"][f"{what}_{unit}_{which}"] = percentile(values[which], 50)
        self.say(", ".join(f"{key} {value:.4g}" for key, value in self.results["storm"].items()))

        def slower(values):
            return percentile(values["stormed"], 50) / max(percentile(values["calm"], 50), 1)
        self.goal(f"cold lookups after {self.storm:,} snapshots, against a store with few", slower(looked_up), 1.1, "×")
        self.goal("held p50, against a store with few", slower(held), 1.1, "×")
        self.goal("whole call p50, against a store with few", slower(calls), 1.1, "×")
        for which, store in stores.items():
            self.durdir("umount", mounts[which], store=store)

    def million_files(self):
        for shape in ("flat", "tree"):
            files = self.million
            per_directory = files if shape == "flat" else 1000
            mountpoint = self.mount(shape, "--create")
            count, creating = self.micro(shape, mountpoint, files)[shape]
            self.durdir("umount", mountpoint)
            start = time.monotonic()
            self.mount(shape)
            subprocess.run(["ls", mountpoint], check=True, stdout=subprocess.DEVNULL)
            remount = time.monotonic() - start
            idle = self.memory_mib()
            listed, listing = 0, 0.0
            for number in range((files + per_directory - 1) // per_directory):
                entries, seconds = self.micro("list", f"{mountpoint}/d{number}")["list"]
                listed, listing = listed + entries - 2, listing + seconds
            if listed != files:
                sys.exit(f"{shape}: {listed} entries listed, {files} created")
            _, looking_up = self.micro("walk", mountpoint, files, per_directory)["walk"]
            referenced = self.memory_mib()
            self.drop_caches(2)
            # The kernel sends its forgets in the background, and the allocator gives pages back after a while.
            time.sleep(15)
            dropped = self.memory_mib()
            self.results["million_" + shape] = {
                "files": files, "create_us": creating / files * 1e6, "list_us": listing / files * 1e6,
                "lookup_us": looking_up / files * 1e6, "remount_to_first_ls_s": remount,
                "memory_mib_after_remount": idle, "memory_mib_all_referenced": referenced, "memory_mib_after_drop_caches": dropped}
            self.say(f"{shape}: " + ", ".join(f"{key} {value:.4g}" for key, value in self.results["million_" + shape].items()))
            self.goal(f"{files:,} files, {shape}: remount until first ls", remount, 0.3, " s")
            self.goal(f"{files:,} files, {shape}: daemon memory, all referenced", referenced, 600, " MiB")
            self.goal(f"{files:,} files, {shape}: growth of memory left after drop_caches, of what it was",
                      max(dropped - idle, 0) / max(referenced - idle, 1), 0.5, "×")
            self.durdir("umount", mountpoint)
            self.durdir("volume", "rm", shape)

    # --- the report -------------------------------------------------------------------------------

    def report(self):
        lines = ["# Snapshots, measured", "",
                 f"One run of `scripts/bench-snapshots{' --quick' if self.options.quick else ''}`. The times are of the command as a"
                 " user calls it, process start included; *held* is how long writers were held.", ""]
        if "constant_time" in self.results:
            lines += [f"## With {WRITERS} writers running", "", "| volume | held p50 | held p99 | whole call p50 | whole call p99 |",
                      "|---|---:|---:|---:|---:|"]
            for row in self.results["constant_time"].values():
                lines.append(f"| durdir, {row['holds']} | {row['held_p50_us']:.0f} µs | {row['held_p99_us']:.0f} µs"
                             f" | {row['call_p50_ms']:.1f} ms | {row['call_p99_ms']:.1f} ms |")
            for name, row in self.results["compared"].items():
                if "seconds" in row:
                    lines.append(f"| {name} | – | – | {row['seconds']:.1f} s | – |")
                else:
                    lines.append(f"| {name} | – | – | {row['call_p50_ms']:.1f} ms | {row['call_p99_ms']:.1f} ms |")
            lines.append("")
        for key in ("storm", "million_flat", "million_tree"):
            if key in self.results:
                lines += [f"## {key.replace('_', ' files, ').capitalize()}", "", "| | |", "|---|---:|"]
                lines += [f"| {name.replace('_', ' ')} | {value:,.4g} |" if value < 1000 else f"| {name.replace('_', ' ')} | {value:,.0f} |"
                          for name, value in self.results[key].items()]
                lines.append("")
        lines += ["## Goals", "", "| goal | measured | limit | |", "|---|---:|---:|---|"]
        lines += [f"| {goal['goal']} | {goal['value']:.3g}{goal['unit']} | {goal['limit']:g}{goal['unit']}"
                  f" | {'met' if goal['met'] else '**missed**'} |" for goal in self.goals]
        with open(self.options.markdown, "w") as out:
            out.write("\n".join(lines) + "\n")
        with open(self.options.results, "w") as out:
            json.dump({"results": self.results, "goals": self.goals}, out, indent=1)


PARTS = {"constant": Run.constant_time, "storm": Run.snapshot_storm, "million": Run.million_files}


def main():
    parser = argparse.ArgumentParser()
    for name in ("durdir", "store", "calm-store", "work", "btrfs", "micro", "results", "markdown"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--daemon-pid", type=int, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    run = Run(options)
    for name, part in PARTS.items():
        if not options.only or name in options.only.split(","):
            print(f"\n{name}", flush=True)
            part(run)
    run.report()
    missed = sum(1 for goal in run.goals if not goal["met"])
    print(f"\n{len(run.goals) - missed} goals met, {missed} missed")
    sys.exit(1 if missed else 0)


main()
