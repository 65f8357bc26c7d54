"""Runs pjdfstest, each case in a process of its own: pjdfstest_run.py DIRECTORY SECOND-FS LOG.

One process for all would be unfair: a case that leaves a file open for writing makes every later remount
busy, on ext4 as well. A case that is skipped and not excluded for it counts as failed, and so does an excluded
case that passes.
"""

import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
CONFIG = os.path.join(HERE, "pjdfstest.toml")
COLOR = re.compile(r"\x1b\[[0-9;]*m")
RESULT = re.compile(r"^(\S+)\s+(ok|FAILED|skipped)$")


def run(directory, second, *selection):
    environment = dict(os.environ, PATH=os.path.join(HERE, "bin") + ":" + os.environ["PATH"])
    done = subprocess.run(
        ["pjdfstest", "-c", CONFIG, "-p", directory, "-s", second, *selection],
        capture_output=True, text=True, env=environment, timeout=600)
    text = COLOR.sub("", done.stdout + done.stderr)
    return text, dict(match.groups() for match in map(RESULT.match, text.splitlines()) if match)


def reasons(path):
    with open(path) as lines:
        return dict(line.strip().split(None, 1) for line in lines if line.strip() and not line.startswith("#"))


def main(directory, second, log):
    excluded = reasons(os.path.join(HERE, "pjdfstest.exclude"))
    # The program has no list of its cases; a first run over the second file system names them.
    _, cases = run(second, directory)
    if not cases:
        sys.exit("pjdfstest ran no case")
    passed, failed = 0, 0
    with open(log, "w") as out:
        for case in sorted(cases):
            text, results = run(directory, second, "--exact", "pjdfstest::tests::" + case)
            result = results.get(case, "not run")
            if case in excluded and excluded[case].startswith(result.lower() + ":"):
                continue
            if case not in excluded and result == "ok":
                passed += 1
                continue
            failed += 1
            out.write(text + "\n")
            detail = next((line.strip() for line in text.splitlines() if line.startswith("\t")), "")
            print(f"  {case}: {result}{', but excluded' if case in excluded else ''}: {detail}")
    for case, reason in sorted(excluded.items()):
        print(f"  excluded: {case}, {reason}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main(*sys.argv[1:])
