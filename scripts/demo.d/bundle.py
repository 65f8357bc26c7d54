"""Writes an OCI bundle: bundle.py BUNDLE HOME-ON-HOST COMMAND [ARG...].

The sandbox sees this machine's own root directory, read-only, with changes kept in memory; the volume is
bound at /home/agent and /tmp is empty. A plain bind mount is what makes gVisor write through to the volume.
"""

import json
import os
import sys

bundle, home, command = sys.argv[1], sys.argv[2], sys.argv[3:]
capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"]
config = {
    "ociVersion": "1.0.2",
    "hostname": "agent",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "cwd": "/home/agent",
        "args": command,
        "env": [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/home/agent",
            "LC_ALL=C.UTF-8",
            "GIT_AUTHOR_NAME=Agent",
            "GIT_AUTHOR_EMAIL=agent@example.invalid",
            "GIT_COMMITTER_NAME=Agent",
            "GIT_COMMITTER_EMAIL=agent@example.invalid",
            "GIT_CONFIG_NOSYSTEM=1",
            "GIT_CONFIG_COUNT=1",
            "GIT_CONFIG_KEY_0=gc.auto",
            "GIT_CONFIG_VALUE_0=0",
        ],
        "capabilities": {kind: capabilities for kind in ("bounding", "effective", "permitted")},
    },
    "root": {"path": "/", "readonly": True},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/home/agent", "type": "bind", "source": home, "options": ["rw"]},
    ],
    "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]},
}
os.makedirs(bundle, exist_ok=True)
with open(os.path.join(bundle, "config.json"), "w") as out:
    json.dump(config, out, indent=1)
