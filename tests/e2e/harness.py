"""Starts the proxy on a real codex and a scripted model, and shows what each of them sees.

The environment says what to use: E2E_TARGET (directory with the built programs), E2E_CODEX (native binary of codex),
E2E_CODEX_VERSION. Everything that is started here ends with this process or before it, by its id.
"""

import atexit
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

import openai

from versions import LISTED, OWN_TEXTS, OWN_TOOLS, VERSION

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("E2E_TARGET", ROOT / "target/release"))
MOCK_KEY = "key-of-the-scripted-model"
PATIENCE = 30.0


def codex_binary(version=VERSION):
    if version == VERSION and "E2E_CODEX" in os.environ:
        return os.environ["E2E_CODEX"]
    fetched = subprocess.run([ROOT / "scripts/fetch-codex", version], stdout=subprocess.PIPE, text=True, check=True)
    return fetched.stdout.strip()


def eventually(what, ask, limit=PATIENCE):
    """Asks until there is an answer; fails with `what` after `limit` seconds."""
    end = time.monotonic() + limit
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit} s: {what}")
        time.sleep(0.005)


class Process:
    """A program with its stdin held open and its stderr in a file."""

    def __init__(self, arguments, env=None):
        self.log = tempfile.TemporaryFile()
        self.child = subprocess.Popen(
            [str(argument) for argument in arguments],
            env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
        )
        self.pid = self.child.pid
        atexit.register(self.kill)

    def line(self):
        line = self.child.stdout.readline().strip()
        if not line:
            raise AssertionError(f"no line on stdout; stderr:\n{self.stderr()}")
        return line

    def stderr(self):
        return os.pread(self.log.fileno(), 1 << 24, 0).decode(errors="replace")

    def signal(self, number):
        self.child.send_signal(number)

    def wait(self, limit=PATIENCE):
        return self.child.wait(limit)

    def kill(self):
        atexit.unregister(self.kill)
        family = descendants(self.pid)
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        for stream in (self.child.stdin, self.child.stdout, self.log):
            with contextlib.suppress(OSError):
                stream.close()
        for seen in family:
            if seen.alive():
                os.kill(seen.pid, signal.SIGKILL)


class Seen:
    """A process as /proc shows it; not mistaken for a later one with its number."""

    def __init__(self, pid):
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rsplit(") ", 1)[1].split()
        self.pid, self.state, self.parent, self.started = int(pid), fields[0], int(fields[1]), fields[19]

    def alive(self):
        try:
            now = Seen(self.pid)
        except (OSError, IndexError):
            return False
        return now.started == self.started and now.state != "Z"

    def arguments(self):
        try:
            with open(f"/proc/{self.pid}/cmdline") as line:
                return line.read().split("\0")
        except OSError:
            return []

    def rss(self):
        """Resident memory in MB; 0 when the process is gone."""
        try:
            with open(f"/proc/{self.pid}/status") as status:
                return next((int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS")), 0)
        except OSError:
            return 0

    def socket_inodes(self):
        inodes = set()
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{self.pid}/fd"):
                with contextlib.suppress(OSError):
                    link = os.readlink(f"/proc/{self.pid}/fd/{fd}")
                    if link.startswith("socket:["):
                        inodes.add(link[8:-1])
        return inodes

    def remotes(self):
        """Where its TCP sockets go, as (address, port)."""
        inodes, found = self.socket_inodes(), set()
        for table in ("tcp", "tcp6"):
            with open(f"/proc/net/{table}") as lines:
                for line in list(lines)[1:]:
                    fields = line.split()
                    address, port = fields[2].split(":")
                    if fields[9] in inodes and int(port, 16):
                        found.add((address, int(port, 16)))
        return found


def descendants(pid):
    """Children, their children and so on."""
    everybody = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                seen = Seen(entry)
                everybody.setdefault(seen.parent, []).append(seen)
    found, following = [], [pid]
    while following:
        for child in everybody.get(following.pop(), []):
            found.append(child)
            following.append(child.pid)
    return found


class Model:
    """The scripted model; tests/scripted-model/answer.rs lists what directs it."""

    def __init__(self):
        self.process = Process([TARGET / "examples/scripted-model", "--exit-on-eof"])
        self.url = self.process.line().split()[-1]
        self.port = int(self.url.split(":")[2].split("/")[0])

    def _control(self, path, data=None):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data=data, timeout=PATIENCE) as answer:
            return json.load(answer)

    def requests(self, since=0):
        return self._control(f"/requests?since={since}")

    def turns(self):
        """The bodies of the requests for a completion."""
        return [request["body"] for request in self.requests() if request["path"].split("?")[0].endswith("/responses")]

    def connections(self):
        return self._control("/connections")

    def open_gate(self, name):
        self._control(f"/open/{name}", b"")

    def reset(self):
        self._control("/reset", b"")

    def kill(self):
        self.process.kill()

    def config(self, name="mock", **extra):
        """A config.toml that makes this model codex's provider."""
        lines = [f'model_provider = "{name}"', f"[model_providers.{name}]", f'name = "{name}"', f'base_url = "{self.url}"',
                 'wire_api = "responses"', 'env_key = "MOCK_KEY"', "request_max_retries = 1", "stream_max_retries = 1"]
        return "\n".join(lines + [f"{key} = {value}" for key, value in extra.items()]) + "\n"


class Proxy:
    """The program under test with a CODEX_HOME of its own. `files` are written into that before the start; `prefix` is a
    command that becomes the program."""

    def __init__(self, model, env=None, files=None, home=None, wait=True, version=VERSION, prefix=()):
        self.own_home = home is None
        self.home = pathlib.Path(home or tempfile.mkdtemp(prefix="e2e-home-"))
        files = {"config.toml": model.config()} if files is None and self.own_home else files or {}
        for name, text in files.items():
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        # Nobody's real login is looked at.
        self.user_home = tempfile.mkdtemp(prefix="e2e-user-")
        self.env = {
            "PATH": os.environ["PATH"], "HOME": self.user_home, "PORT": "0", "CODEX_HOME": str(self.home),
            "CODEX_BIN": codex_binary(version), "MOCK_KEY": MOCK_KEY, "PROXY_SSE_MAX_CONCURRENCY": "0",
            "RUST_LOG": os.environ.get("E2E_LOG", "info"), **(env or {}),
        }
        self.process = Process([*prefix, TARGET / "codex-completions"], self.env)
        self.url = self.process.line().split()[-1]
        self.port = int(self.url.split(":")[2].split("/")[0])
        if wait:
            try:
                self.wait_until_ready()
            except AssertionError:
                print(self.process.stderr())
                raise

    def raw(self, verb, path, headers=None):
        """Any request without a body; the whole answer as (status, headers, text)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(verb, path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def get(self, path, headers=None):
        status, _, text = self.raw("GET", path, headers)
        return status, text

    @contextlib.contextmanager
    def request(self, body, path="/v1/chat/completions", headers=None):
        """The answer to a raw request, to be read at leisure."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **(headers or {})})
            yield connection.getresponse()
        finally:
            connection.close()

    def post(self, body, path="/v1/chat/completions", headers=None):
        """A raw request; the whole answer as (status, headers, text)."""
        with self.request(body, path, headers) as answer:
            return answer.status, answer.headers, answer.read().decode()

    def ready(self):
        with contextlib.suppress(OSError):
            return self.get("/readyz")[0] == 200
        return False

    def wait_until_ready(self, limit=PATIENCE):
        eventually("the proxy is ready", self.ready, limit)

    def client(self, **options):
        options = {"api_key": "any", "max_retries": 0, "timeout": PATIENCE, **options}
        return openai.OpenAI(base_url=self.url, **options)

    def async_client(self, **options):
        options = {"api_key": "any", "max_retries": 0, "timeout": PATIENCE, **options}
        return openai.AsyncOpenAI(base_url=self.url, **options)

    def app_servers(self):
        """A child that codex is just forking looks like another codex and shares all its memory: it does not count."""
        found = {seen.pid: seen for seen in descendants(self.process.pid) if "app-server" in seen.arguments()}
        return [seen for seen in found.values() if seen.parent not in found]

    def app_server(self):
        """The only one; waits for it."""
        return eventually("one app-server", lambda: (lambda found: found[0] if len(found) == 1 else None)(self.app_servers()))

    def stop(self, limit=PATIENCE):
        """SIGTERM; its exit status, after everything of it is gone."""
        family = descendants(self.process.pid)
        self.process.signal(signal.SIGTERM)
        status = self.process.wait(limit)
        eventually("nothing is left running", lambda: not any(seen.alive() for seen in family), 1.0)
        return status

    def close(self):
        self.process.kill()
        shutil.rmtree(self.user_home, ignore_errors=True)
        if self.own_home:
            shutil.rmtree(self.home, ignore_errors=True)


def ask(text, **more):
    """The body of a chat completion of one user message."""
    return {"model": LISTED, "messages": [{"role": "user", "content": text}], **more}


# What codex is told of the lean profile before the client's words.
BASE = "You are a helpful assistant."


def conversation(body):
    """The items that the model got, in short, behind the base instructions: (ROLE, PART …) with an image as a pair of URL
    and detail, ("call", ID, NAME, ARGUMENTS), ("output", ID, TEXT), ("reasoning", SEALED, SUMMARY …)."""
    def part(part):
        return part["text"] if "text" in part else (part["image_url"], part.get("detail"))

    def short(item):
        match item["type"]:
            case "message":
                # Codex marks images so (0.92 – 0.120).
                return (item["role"], *(part(one) for one in item["content"] if one.get("text") not in ("<image>", "</image>")))
            case "function_call":
                return ("call", item["call_id"], item["name"], item["arguments"])
            case "function_call_output":
                return ("output", item["call_id"], item["output"])
            case "reasoning":
                return ("reasoning", item["encrypted_content"], *(part["text"] for part in item["summary"]))
        raise AssertionError(item)

    items = [short(item) for item in body["input"]]
    own = [item for item in items if any(str(item[1]).startswith(text) for text in OWN_TEXTS)]
    if len(own) != len(OWN_TEXTS):
        raise AssertionError(items)
    items = [item for item in items if item not in own]
    base = [("developer", body["instructions"])] if body.get("instructions") else items[:1]
    if base != [("developer", BASE)]:
        raise AssertionError(base)
    return items if body.get("instructions") else items[1:]


def offered(body):
    """The tools that the model got of the client."""
    tools = body.get("tools") or []
    if not set(OWN_TOOLS) <= {tool["name"] for tool in tools}:
        raise AssertionError(tools)
    return [tool for tool in tools if tool["name"] not in OWN_TOOLS]


def send_raw(port, body):
    """A request whose connection is handed out."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def events(text):
    """The data of each event of a stream."""
    return [event[6:] for event in text.split("\n\n") if event.startswith("data: ")]


def in_parallel(count, work):
    """Runs work(0) … work(count-1) at once; their results, or the first failure."""
    results, failures = [None] * count, []

    def run(number):
        try:
            results[number] = work(number)
        except BaseException as failure:  # noqa: BLE001 - it is raised again below
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results
