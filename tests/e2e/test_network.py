"""With a provider of one's own, codex talks to the model and to nobody else.

Two nets: every TCP and UDP socket of the program's processes, looked at again and again, and a proxy for HTTP in codex's
environment that notes what is asked of it, so that a short call cannot slip through between two looks.
"""

import pathlib
import shutil
import socket
import tempfile
import threading
import unittest

import harness
import test_home_desk
from harness import ask, eventually
from versions import DEGRADED, since


class Trap:
    """A proxy that notes the first line of each request and hangs up."""

    def __init__(self):
        self.asked, self.listener = [], socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(200).split(b"\r\n")[0])

    def environment(self):
        url = f"http://127.0.0.1:{self.port}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
        return {**dict.fromkeys(names, url), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def close(self):
        self.listener.close()


def peers(seen, own_port):
    """Ports that the sockets of a process are connected to, and `udp` where it has such a socket, as for a look into the
    DNS. Before its exec a child holds its parent's connections, those to `own_port`."""
    inodes, found = seen.socket_inodes(), set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        with open(f"/proc/net/{table}") as lines:
            for line in list(lines)[1:]:
                fields = line.split()
                here, there = (int(fields[place].split(":")[1], 16) for place in (1, 2))
                if fields[9] in inodes and here != own_port:
                    found.add("udp" if table.startswith("udp") else there)
    # A socket that listens has no peer.
    return found - {0}


class Network(unittest.TestCase):
    def setUp(self):
        self.model, self.trap = harness.Model(), Trap()
        self.addCleanup(self.model.kill)
        self.addCleanup(self.trap.close)
        test_home_desk.model = self.model

    def watched(self, files, home=None):
        """Starts, serves 20 completions, waits a little and stops; who was talked to meanwhile."""
        over, found = threading.Event(), set()
        proxy = harness.Proxy(self.model, self.trap.environment(), files, home, wait=False)
        self.addCleanup(proxy.close)

        def watch():
            while not over.wait(0.001):
                for seen in harness.descendants(proxy.process.pid):
                    found.update(peers(seen, proxy.port))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            proxy.wait_until_ready()
            for number in range(20):
                status, _, text = proxy.post(ask("[[words 20]] [[wait 10]]", stream=bool(number % 2)))
                self.assertEqual(status, 200, text)
            # One that lasts, so that a slow machine sees it too.
            with proxy.request(ask("[[say a b]] [[gate seen]]", stream=True)) as answer:
                answer.readline()
                eventually("the connection to the model is seen", lambda: self.model.port in found)
                self.model.open_gate("seen")
                answer.read()
            # What codex asks for at its start, it asks for within its first second.
            over.wait(1.0)
            self.assertEqual(proxy.stop(), 0)
        finally:
            over.set()
            watcher.join()
        return found

    def asked(self):
        """What went past the model, but for the list of models that 0.77 – 0.103 ask for over the network."""
        hosts = ("chatgpt.com", "api.openai.com") if since(77) and not since(104) else ()
        lists = {f"CONNECT {host}:443 HTTP/1.1".encode() for host in hosts} & set(self.trap.asked)
        if lists:
            DEGRADED[self.id()] = "asks for models"
        return set(self.trap.asked) - lists

    def test_a_provider_of_ones_own(self):
        self.assertEqual(self.watched({"config.toml": self.model.config()}), {self.model.port})
        self.assertEqual(self.asked(), set())
        self.assertEqual({request["path"] for request in self.model.requests()}, {"/v1/responses"})

    def test_a_desk_with_everything_switched_on(self):
        place = pathlib.Path(tempfile.mkdtemp(prefix="e2e-network-"))
        self.addCleanup(shutil.rmtree, place)
        files = test_home_desk.desk(place, test_home_desk.Programs(place).path)
        self.assertEqual(self.watched(files, place), {self.model.port})
        self.assertEqual(self.asked(), set())
        self.assertEqual({request["path"] for request in self.model.requests()}, {"/v1/responses?desk=1"})

    def test_the_key_of_the_environment_at_a_gateway(self):
        self.trap.environment = lambda own=self.trap.environment(): {**own, "OPENAI_API_KEY": "sk-x"}
        self.assertEqual(self.watched({"config.toml": f'openai_base_url = "{self.model.url}"\n'}), {self.model.port})
        self.assertEqual(self.asked(), set())

    def test_a_key_at_the_builtin_provider(self):
        """Its own service is asked for turns and for nothing else, and nobody before the first turn."""
        files = {"auth.json": '{"OPENAI_API_KEY":"sk-nowhere"}'}
        proxy = harness.Proxy(self.model, {**self.trap.environment(), "PROXY_TIMEOUT_MS": "3000"}, files)
        self.addCleanup(proxy.close)
        # What codex asks for at its start, it asks for within its first second.
        self.assertFalse(threading.Event().wait(1.0))
        self.assertEqual(self.trap.asked, [])
        self.assertIn(proxy.post(ask("hello"))[0], (502, 504))
        # One that is given up in the middle may have said nothing yet.
        self.assertEqual(set(self.trap.asked) - {b""}, {b"CONNECT api.openai.com:443 HTTP/1.1"})
        self.assertEqual(proxy.stop(), 0)


if __name__ == "__main__":
    unittest.main()
