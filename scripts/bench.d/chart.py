"""Draws the benchmark chart as SVG: time per operation relative to ext4, on a logarithmic axis, one panel per mode."""

import math
import statistics

from metrics import METRICS, MODES, SYSTEMS

COLORS = {"overlayfs": "#7f9cb8", "fuse-overlayfs": "#d59a5b", "durdir": "#2f7d5b"}
TITLES = {"pinned": "everything on one CPU", "unpinned": "not pinned"}
LABELS, PANEL, GAP, BAR, GROUP, TOP, BOTTOM = 300, 430, 40, 9, 40, 84, 36
LOW, HIGH = 0.25, 64.0


def position(ratio):
    clamped = min(max(ratio, LOW), HIGH)
    return PANEL * (math.log2(clamped) - math.log2(LOW)) / (math.log2(HIGH) - math.log2(LOW))


def text(x, y, content, anchor="start", size=12, color="#333", weight="normal"):
    content = content.replace("&", "&amp;").replace("<", "&lt;")
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}"'
            f' font-weight="{weight}">{content}</text>')


def panel(results, mode, metrics, left, bottom):
    parts = [text(left + PANEL / 2, TOP - 28, TITLES[mode], "middle", 13, weight="bold")]
    tick = LOW
    while tick <= HIGH:
        x = left + position(tick)
        strong = tick == 1
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{bottom}" stroke="{"#333" if strong else "#e2e2e2"}"/>')
        parts.append(text(x, TOP - 13, f"{tick:g}×", "middle", 10, "#666"))
        tick *= 2
    for row, metric in enumerate(metrics):
        values = results[mode].get(metric.key, {})
        if not values.get("ext4"):
            continue
        base = statistics.median(values["ext4"])
        for slot, system in enumerate(SYSTEMS[1:]):
            if not values.get(system):
                continue
            ratio = statistics.median(values[system]) / base
            start, end = sorted((position(1), position(ratio)))
            y = TOP + row * GROUP + 4 + slot * (BAR + 1)
            parts.append(f'<rect x="{left + start:.1f}" y="{y}" width="{max(end - start, 1):.1f}" height="{BAR}" fill="{COLORS[system]}"/>')
            # Beside the end that moves: left of the axis for what is faster than ext4.
            beside = (left + start - 3, "end") if ratio < 1 else (left + end + 3, "start")
            parts.append(text(beside[0], y + BAR - 1, f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}", beside[1], 9, "#555"))
    return parts


def draw(results):
    modes = [mode for mode in MODES if mode in results]
    metrics = [metric for metric in METRICS if any(metric.key in results[mode] for mode in modes)]
    bottom = TOP + len(metrics) * GROUP
    width = LABELS + len(modes) * (PANEL + GAP)
    height = bottom + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="system-ui, sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        text(16, 28, "Time per operation, relative to ext4 (shorter is faster)", size=16, weight="bold"),
    ]
    x = width - 3 * 130
    for system in SYSTEMS[1:]:
        parts.append(f'<rect x="{x}" y="17" width="12" height="12" fill="{COLORS[system]}"/>')
        parts.append(text(x + 17, 28, system))
        x += 130
    for row, metric in enumerate(metrics):
        y = TOP + row * GROUP
        if row % 2 == 0:
            parts.append(f'<rect x="0" y="{y}" width="{width}" height="{GROUP}" fill="#f7f7f7"/>')
        parts.append(text(LABELS - 14, y + GROUP / 2 + 4, metric.title, "end"))
    for number, mode in enumerate(modes):
        parts += panel(results, mode, metrics, LABELS + number * (PANEL + GAP), bottom)
    parts.append(text(16, height - 12, "Bars end at 64×; the line at 1× is ext4 on the same disk.", size=10, color="#666"))
    parts.append("</svg>\n")
    return "\n".join(parts)
