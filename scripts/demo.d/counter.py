"""What runs in the demo's actor: counts in memory and in a file, and ends if the two ever disagree."""
import os
import time

count, log = 0, "/home/agent/log"
with open(log, "a") as out:
    while True:
        with open(log) as written:
            lines = written.read().split()
        if lines[-1:] != [str(count)][: min(count, 1)] or len(lines) != count:
            raise SystemExit(f"the file has {len(lines)} numbers and the memory says {count}")
        count += 1
        out.write(f"{count}\n")
        out.flush()
        time.sleep(0.005)
