"""What is measured, how it is shown, and what is asked of durdir: the one place that knows.

A goal says: durdir's time, divided by the reference's, is at most `limit`. A goal that is put as a rate or as
"times as fast" is the same thing turned round: 0.7 times ext4's throughput is at most 1 / 0.7 times its time.
"""

from dataclasses import dataclass

SYSTEMS = ["ext4", "overlayfs", "fuse-overlayfs", "durdir"]
MODES = ["pinned", "unpinned"]


@dataclass(frozen=True)
class Goal:
    reference: str
    limit: float
    text: str
    modes: tuple = ("pinned", "unpinned")


@dataclass(frozen=True)
class Metric:
    key: str
    title: str
    unit: str  # what a nanosecond count per operation is shown as: "us", "MiB/s" (per MiB) or "s"
    goals: tuple = ()


PINNED = ("pinned",)
LIKE_OVERLAY = (Goal("overlayfs", 1.3, "≤ 1.3× overlayfs"),)
REMOVAL = (Goal("overlayfs", 2.5, "≤ 2.5× overlayfs", PINNED),)
STREAM = (Goal("ext4", 1 / 0.7, "≥ 0.7× ext4"),)
MACRO = (Goal("ext4", 1.5, "≤ 1.5× ext4"),)

METRICS = [
    Metric("stat", "stat, hot", "us", LIKE_OVERLAY),
    Metric("openread", "open + read 4 KiB + close, hot", "us", LIKE_OVERLAY),
    Metric("create", "create + write 4 KiB + close", "us", (
        Goal("overlayfs", 3.5, "≤ 3.5× overlayfs", PINNED),
        Goal("fuse-overlayfs", 1 / 2.5, "≥ 2.5× as fast as fuse-overlayfs"))),
    Metric("rename", "rename", "us", REMOVAL),
    Metric("unlink", "unlink", "us", REMOVAL),
    Metric("seqwrite", "sequential write, 1 MiB", "MiB/s", STREAM),
    Metric("seqwrite+fsync", "sequential write, 1 MiB, and fsync at the end", "MiB/s", STREAM),
    Metric("seqread-cold", "sequential read, 1 MiB, cold", "MiB/s", STREAM),
    Metric("seqread", "sequential read, 1 MiB, hot", "MiB/s", STREAM),
    Metric("randwrite", "random write, 4 KiB, buffered", "us", (
        Goal("fuse-overlayfs", 1 / 1.5, "≥ 1.5× as fast as fuse-overlayfs"),)),
    Metric("fsyncwrite", "write 4 KiB + fsync", "us", (Goal("ext4", 2.0, "≥ 0.5× ext4"),)),
    Metric("npm-install", "npm install (cached packages)", "s", MACRO),
    Metric("rm-node-modules", "rm -rf node_modules", "s", MACRO),
    Metric("git-clone", "git clone", "s", MACRO),
    Metric("git-status", "git status, 100,000 files, warm", "s", MACRO),
    Metric("cargo-build", "cargo build", "s", MACRO),
]
BY_KEY = {metric.key: metric for metric in METRICS}


def shown(metric, nanoseconds):
    """A measured time per operation in the metric's unit, as text."""
    if metric.unit == "MiB/s":
        return f"{1e9 / nanoseconds:,.0f} MiB/s"
    if metric.unit == "s":
        return f"{nanoseconds / 1e9:.2f} s"
    return f"{nanoseconds / 1e3:.1f} µs" if nanoseconds < 1e5 else f"{nanoseconds / 1e3:.0f} µs"
