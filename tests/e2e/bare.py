"""The least that a client of an app-server can be: the measure for what the proxy adds."""

import json
import queue
import shutil
import tempfile
import threading
import time

import harness
from versions import LISTED


class Bare:
    """One app-server over stdio, started on a copy of the proxy's home and with the same settings as the proxy's own.
    Threads are never unsubscribed."""

    def __init__(self, proxy):
        self.home = tempfile.TemporaryDirectory(prefix="e2e-bare-", ignore_cleanup_errors=True)
        twin = proxy.app_server()
        with open(f"/proc/{twin.pid}/environ") as environ:
            env = dict(line.split("=", 1) for line in environ.read().split("\0") if line)
        there = env["CODEX_HOME"]
        env.update(CODEX_HOME=self.home.name, HOME=self.home.name)
        for name in ("config.toml", "catalog.json"):
            shutil.copy(f"{there}/{name}", self.home.name)
        arguments = [argument.replace(there, self.home.name) for argument in twin.arguments() if argument]
        self.process = harness.Process(arguments, env)
        self.lock, self.count, self.waiting = threading.Lock(), 0, {}
        threading.Thread(target=self._read, daemon=True).start()
        self.call("initialize", {"clientInfo": {"name": "bare", "version": "1"}, "capabilities": {"experimentalApi": True}})
        self._write({"method": "initialized"})

    def _read(self):
        for line in self.process.child.stdout:
            message = json.loads(line)
            key = message.get("id") if "method" not in message else (message.get("params") or {}).get("threadId")
            waiting = self.waiting.get(key)
            if waiting:
                waiting.put(message)

    def _write(self, message):
        with self.lock:
            self.process.child.stdin.write(json.dumps(message) + "\n")
            self.process.child.stdin.flush()

    def call(self, method, params):
        with self.lock:
            self.count += 1
            number = self.count
        self.waiting[number] = answers = queue.Queue()
        self._write({"id": number, "method": method, "params": params})
        answer = answers.get(timeout=harness.PATIENCE)
        del self.waiting[number]
        if "error" in answer:
            raise AssertionError(answer)
        return answer["result"]

    def complete(self, text, model=LISTED):
        """One completion; its text and the seconds that it took."""
        began = time.monotonic()
        params = {"model": model, "ephemeral": True, "cwd": self.home.name, "approvalPolicy": "never",
                  "sandbox": "read-only", "environments": [], "baseInstructions": "You are a helpful assistant."}
        thread = self.call("thread/start", params)["thread"]["id"]
        self.waiting[thread] = events = queue.Queue()
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        self.call("thread/inject_items", {"threadId": thread, "items": [item]})
        self.call("turn/start", {"threadId": thread, "input": []})
        said = ""
        while True:
            event = events.get(timeout=harness.PATIENCE)
            if event["method"] == "item/agentMessage/delta":
                said += event["params"]["delta"]
            elif event["method"] == "turn/completed":
                if event["params"]["turn"]["status"] != "completed":
                    raise AssertionError(event)
                del self.waiting[thread]
                return said, time.monotonic() - began

    def close(self):
        self.process.kill()
        self.home.cleanup()
