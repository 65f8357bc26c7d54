"""Measures file systems side by side: measure.py OPTIONS SYSTEM=DIRECTORY...

All file systems are mounted for the whole run, and every repetition visits each of them, in a different order
each time: what drifts (the disk, the host) drifts for all. Results are added to the JSON file given by --results as
{mode: {metric: {system: [nanoseconds per operation, ...]}}}.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time

from metrics import METRICS

MICRO = {"hot": ("stat", "openread"), "names": ("create", "rename", "unlink"),
         "stream": ("seqwrite", "seqwrite+fsync", "seqread-cold", "seqread", "randwrite"), "durable": ("fsyncwrite",)}
MACRO = {"npm": ("npm-install", "rm-node-modules"), "clone": ("git-clone",), "status": ("git-status",),
         "cargo": ("cargo-build",)}


class Bench:
    def __init__(self, options, systems):
        self.options, self.systems = options, systems
        self.results = {}
        self.recording = False
        self.prefix = ["taskset", "-c", str(options.cpu)] if options.cpu is not None else []
        quick = options.quick
        self.files = 2000 if quick else 10000
        self.passes = 3 if quick else 10
        self.mebibytes = 64 if quick else 256
        self.random_writes = 2000 if quick else 20000
        self.syncs = 50 if quick else 300
        self.repetitions = 3 if quick else 5
        self.macro_repetitions = 1 if quick else 2
        self.wanted = set(options.only.split(",")) if options.only else {metric.key for metric in METRICS}

    # --- running ----------------------------------------------------------------------------------

    def micro(self, *arguments):
        done = subprocess.run(self.prefix + [self.options.micro, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr.strip() or f"micro {arguments}: exit {done.returncode}")
        return {name: int(nanoseconds) / int(count)
                for name, count, nanoseconds in (line.split() for line in done.stdout.splitlines())}

    def timed(self, command, directory, **environment):
        values = dict(os.environ, **environment)
        values.pop("CARGO_TARGET_DIR", None)
        start = time.monotonic_ns()
        done = subprocess.run(self.prefix + command, cwd=directory, env=values, capture_output=True, text=True)
        took = time.monotonic_ns() - start
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} in {directory}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return took

    def record(self, metric, system, nanoseconds):
        if self.recording:
            self.results.setdefault(metric, {}).setdefault(system, []).append(nanoseconds)

    def each_system(self, repetition):
        """The file systems in an order of this repetition's own, each with nothing left to write back from the others.

        Repetition -1 is not recorded: it reads in what the disk's own file system has not in memory (bitmaps,
        inode tables), which otherwise the first in line pays for all.
        """
        self.recording = repetition >= 0
        names = list(self.systems)
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            os.sync()
            yield name, self.systems[name]

    def wants(self, group, blocks):
        return bool(self.wanted & (set(blocks[group]) | {group}))

    def fresh(self, directory, name):
        path = os.path.join(directory, name)
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        return path

    def run(self):
        for blocks, repetitions in ((MICRO, self.repetitions), (MACRO, self.macro_repetitions)):
            for group in blocks:
                if self.wants(group, blocks):
                    start = time.monotonic()
                    getattr(self, "block_" + group)(repetitions)
                    print(f"  {', '.join(blocks[group])}: {time.monotonic() - start:.0f} s", flush=True)

    # --- one operation at a time ------------------------------------------------------------------

    def block_hot(self, repetitions):
        for system, directory in self.systems.items():
            self.micro("fill", self.fresh(directory, "hot"), self.files, 4096)
        for repetition in range(-1, repetitions):
            for system, directory in self.each_system(repetition):
                for metric in MICRO["hot"]:
                    for name, value in self.micro(metric, directory + "/hot", self.files, self.passes).items():
                        self.record(name, system, value)

    def block_names(self, repetitions):
        for repetition in range(-1, repetitions):
            for system, directory in self.each_system(repetition):
                scratch = os.path.join(directory, "names")
                os.makedirs(scratch, exist_ok=True)
                for metric in MICRO["names"]:
                    for name, value in self.micro(metric, scratch, self.files).items():
                        self.record(name, system, value)

    def block_stream(self, repetitions):
        for repetition in range(-1, repetitions):
            for system, directory in self.each_system(repetition):
                path = os.path.join(directory, "stream")
                if os.path.exists(path):
                    os.unlink(path)
                    os.sync()
                for name, value in self.micro("seqwrite", path, self.mebibytes).items():
                    self.record(name, system, value)
                os.sync()
                with open("/proc/sys/vm/drop_caches", "w") as drop:
                    drop.write("3")
                self.record("seqread-cold", system, self.micro("seqread", path, self.mebibytes)["seqread"])
                self.record("seqread", system, self.micro("seqread", path, self.mebibytes)["seqread"])
                self.record("randwrite", system,
                            self.micro("randwrite", path, self.mebibytes, self.random_writes)["randwrite"])

    def block_durable(self, repetitions):
        for repetition in range(-1, repetitions):
            for system, directory in self.each_system(repetition):
                path = os.path.join(directory, "durable")
                if not os.path.exists(path):
                    self.micro("seqwrite", path, 4)
                    os.sync()
                self.record("fsyncwrite", system, self.micro("fsyncwrite", path, self.syncs)["fsyncwrite"])

    # --- whole programs ---------------------------------------------------------------------------

    def block_npm(self, repetitions):
        for repetition in range(-1, repetitions):
            for system, directory in self.each_system(repetition):
                project = self.fresh(directory, "npm")
                for name in ("package.json", "package-lock.json"):
                    shutil.copyfile(os.path.join(self.options.inputs, "npm", name), os.path.join(project, name))
                self.record("npm-install", system, self.timed(
                    ["npm", "install", "--offline", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error",
                     "--cache", os.path.join(self.options.inputs, "npm-cache")], project))
                os.sync()
                self.record("rm-node-modules", system, self.timed(["rm", "-rf", "node_modules"], project))

    def block_clone(self, repetitions):
        for repetition in range(-1, repetitions):
            for system, directory in self.each_system(repetition):
                shutil.rmtree(os.path.join(directory, "clone"), ignore_errors=True)
                os.sync()
                self.record("git-clone", system, self.timed(
                    ["git", "clone", "--quiet", "--no-hardlinks", os.path.join(self.options.inputs, "tree.git"), "clone"],
                    directory))

    def block_status(self, repetitions):
        source = os.path.join(self.options.inputs, "many.git")
        for system, directory in self.systems.items():
            self.timed(["git", "clone", "--quiet", "--no-hardlinks", source, "many"], directory)
        for repetition in range(-1, repetitions * 3):
            for system, directory in self.each_system(repetition):
                project = os.path.join(directory, "many")
                self.timed(["git", "status", "--porcelain"], project)
                self.record("git-status", system, self.timed(["git", "status", "--porcelain"], project))
        for directory in self.systems.values():
            shutil.rmtree(os.path.join(directory, "many"))

    def block_cargo(self, repetitions):
        for repetition in range(-1, repetitions):
            for system, directory in self.each_system(repetition):
                project = os.path.join(directory, "crate")
                shutil.rmtree(project, ignore_errors=True)
                shutil.copytree(os.path.join(self.options.inputs, "crate"), project)
                self.record("cargo-build", system, self.timed(["cargo", "build", "--offline", "--quiet"], project))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", required=True)
    parser.add_argument("--results", required=True)
    parser.add_argument("--micro", required=True)
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--cpu", type=int)
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("systems", nargs="+")
    options = parser.parse_args()
    bench = Bench(options, dict(system.split("=", 1) for system in options.systems))
    bench.run()
    results = {}
    if os.path.exists(options.results):
        with open(options.results) as source:
            results = json.load(source)
    results[options.mode] = bench.results
    with open(options.results, "w") as out:
        json.dump(results, out, indent=1)


main()
