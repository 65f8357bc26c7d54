#!/usr/bin/env python3
"""Stands for Cloud Hypervisor where no machine can be run: its interface, its states, its refusals and its files.

It speaks HTTP/1.1 over the Unix socket that it is given with --api-socket fd=N, keeps the states of docs/api.md, connects to the vhost-user
sockets of its description as the real one does, and writes what the real one writes. In place of a guest a number counts while
the machine runs; it is what `memory-ranges` holds.
"""

import http.server
import json
import os
import socket
import sys
import threading
import time
import urllib.parse


class Refusal(Exception):
    pass


class Machine:
    def __init__(self):
        self.description = None
        self.state = None
        self.count = 0
        self.devices = []
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            time.sleep(0.005)
            if self.state == "Running":
                self.count += 1
                with open("fake-count", "w") as out:
                    out.write(str(self.count))

    def attach(self):
        """Opens everything that the description names."""
        payload = self.description["payload"]
        for path in (payload["kernel"], payload["initramfs"]):
            if not os.path.isfile(path):
                raise Refusal(f"cannot open {path}")
        if self.description.get("fs") and not self.description["memory"].get("shared"):
            raise Refusal("vhost-user needs shared memory")
        open(self.description["serial"]["file"], "a").close()
        for device in self.description.get("fs", []):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(device["socket"])
            except OSError as error:
                raise Refusal(f"cannot connect to vhost-user socket {device['socket']}: {error}")
            self.devices.append(connection)

    def expect(self, *states):
        if self.state not in states:
            raise Refusal(f"the VM is {self.state or 'not created'}")

    def create(self, description):
        self.expect(None)
        self.description = description
        self.attach()
        self.state = "Created"

    def boot(self, _):
        self.expect("Created")
        self.state = "Running"

    def pause(self, _):
        self.expect("Running")
        self.state = "Paused"

    def resume(self, _):
        self.expect("Paused")
        self.state = "Running"

    def snapshot(self, request):
        self.expect("Paused")
        target = directory(request["destination_url"])
        for name, content in (("config.json", self.description), ("state.json", {"id": "fake"}), ("memory-ranges", self.count)):
            # Files that are there already are an error, as they are to the real one.
            with open(os.path.join(target, name), "x") as out:
                json.dump(content, out)

    def restore(self, request):
        self.expect(None)
        source = directory(request["source_url"])
        read = lambda name: json.load(open(os.path.join(source, name)))
        self.description, _, self.count = read("config.json"), read("state.json"), read("memory-ranges")
        self.attach()
        self.state = "Paused"

    def shutdown(self, _):
        self.expect("Running", "Paused")
        self.state = "Shutdown"


def directory(url):
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "file" or not os.path.isdir(parts.path):
        raise Refusal(f"{url} is no directory")
    return parts.path


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    machine = Machine()

    def address_string(self):
        return "client"

    def answer(self, status, body=None):
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Server", "Cloud Hypervisor API")
        if content:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        if self.path == "/api/v1/vmm.ping":
            self.answer(200, {"version": "v0.0.0-fake", "pid": os.getpid()})
        elif self.path == "/api/v1/vm.info" and self.machine.state:
            self.answer(200, {"config": self.machine.description, "state": self.machine.state})
        elif self.path == "/api/v1/vm.info":
            self.answer(500, ["Error from API", "The VM info is not available", "VM is not created"])
        else:
            self.answer(404)

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        actions = ("create", "boot", "pause", "resume", "snapshot", "restore", "shutdown")
        action = self.path.removeprefix("/api/v1/vm.")
        if action not in actions:
            return self.answer(404)
        try:
            getattr(self.machine, action)(json.loads(body) if body else None)
        except (Refusal, OSError, KeyError, ValueError) as error:
            return self.answer(500, ["Error from API", f"The VM could not {action}", str(error)])
        self.answer(204)


class Server(http.server.ThreadingHTTPServer):
    def __init__(self, listener):
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener


if sys.argv[1:] == ["--version"]:
    print("cloud-hypervisor v0.0.0-fake")
elif sys.argv[1] == "--api-socket" and sys.argv[2].startswith("fd="):
    Server(socket.socket(fileno=int(sys.argv[2][3:]))).serve_forever()
else:
    sys.exit(f"wrong arguments: {sys.argv[1:]}")
