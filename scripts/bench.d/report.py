"""Turns results.json into a markdown report and a chart: report.py RESULTS MARKDOWN SVG [--quick]."""

import json
import os
import platform
import statistics
import sys

from chart import draw
from metrics import METRICS, MODES, SYSTEMS, shown

MODE_TITLES = {
    "pinned": "Everything on one CPU (daemon and client)",
    "unpinned": "Not pinned",
}


def processor():
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def judge(metric, medians, mode):
    """The goals that apply in this mode: (text, ratio as the goal puts it, met)."""
    if "durdir" not in medians:
        return []
    verdicts = []
    for goal in metric.goals:
        if mode not in goal.modes or goal.reference not in medians:
            continue
        ratio = medians["durdir"] / medians[goal.reference]
        value = 1 / ratio if goal.text.startswith("≥") else ratio
        verdicts.append((goal.text, value, ratio <= goal.limit))
    return verdicts


def table(results, mode):
    lines = ["| | " + " | ".join(SYSTEMS) + " | durdir ÷ ext4 | ÷ overlayfs | ÷ fuse-overlayfs | goal | |",
             "|---|" + "---:|" * (len(SYSTEMS) + 3) + "---|---|"]
    met = missed = 0
    for metric in METRICS:
        values = results.get(mode, {}).get(metric.key)
        if not values:
            continue
        medians = {system: statistics.median(values[system]) for system in SYSTEMS if values.get(system)}
        cells = [shown(metric, medians[system]) if system in medians else "–" for system in SYSTEMS]
        for reference in SYSTEMS[:3]:
            both = "durdir" in medians and reference in medians
            cells.append(f"{medians['durdir'] / medians[reference]:.2f}×" if both else "–")
        verdicts = judge(metric, medians, mode)
        met += sum(1 for verdict in verdicts if verdict[2])
        missed += sum(1 for verdict in verdicts if not verdict[2])
        cells.append("<br>".join(text for text, _, _ in verdicts) or "–")
        cells.append("<br>".join(f"{'met' if good else '**missed**'} ({value:.2f}×)" for _, value, good in verdicts))
        lines.append(f"| {metric.title} | " + " | ".join(cells) + " |")
    return lines, met, missed


def main(results_file, markdown_file, svg_file, *flags):
    with open(results_file) as source:
        results = json.load(source)
    lines = [
        "# Benchmarks", "",
        f"One run of `scripts/bench{' --quick' if '--quick' in flags else ''}`: all file systems mounted at the same time on one"
        " ext4 (its defaults, with a journal, on a loop device with direct I/O), every repetition visits each of them in a different order, medians. Times are per operation; the ratios"
        " are of times, so smaller is faster.", "",
        *(["With `--quick`: small sizes, few repetitions, 10,000 files for git status. Not for comparison.", ""]
          if "--quick" in flags else []),
        f"Machine: {os.cpu_count()} CPUs ({processor()}), Linux {'.'.join(platform.release().split('.')[:2])}.", "",
        f"![durdir beside ext4, overlayfs and fuse-overlayfs]({os.path.basename(svg_file)})", "",
    ]
    total_met = total_missed = 0
    for mode in MODES:
        if mode not in results:
            continue
        rows, met, missed = table(results, mode)
        total_met, total_missed = total_met + met, total_missed + missed
        lines += [f"## {MODE_TITLES[mode]}", "", *rows, ""]
    lines += [
        f"Goals met: {total_met}, missed: {total_missed}.", "",
        "Waking a task on another CPU is what a FUSE file system costs most on a virtual machine, so both arrangements are"
        " shown: with one CPU only the work itself counts; not pinned, the scheduler's choice of CPU does, too.", "",
        "Why goals are missed: [where-the-time-goes.md](where-the-time-goes.md).", "",
    ]
    with open(markdown_file, "w") as out:
        out.write("\n".join(lines))
    with open(svg_file, "w") as out:
        out.write(draw(results))
    print("\n".join(lines))


main(*sys.argv[1:])
