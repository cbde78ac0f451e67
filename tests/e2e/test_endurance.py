"""600 completions (300 on the oldest), 8 at a time: none fails, memory stays bounded, and nobody waits for what keeps it so."""

import http.client
import json
import statistics
import threading
import time
import unittest

import harness
from bare import Bare
from harness import ask, eventually, in_parallel
from versions import NATIVE_EVER, NEWEST, VERSION

# The bare client speaks native prompts only.
COUNT, AT_ONCE, ROUNDS = 600 if NATIVE_EVER else 300, 8, 4
PROMPT = "x" * 1500 + " [[words 20]]"
SAID = "".join(f"w{word} " for word in range(20))
# What the proxy lets a codex grow before the next one takes over, in MB.
GROWTH = 128


class Client:
    """One connection to the proxy, as thin as the bare client."""

    def __init__(self, proxy):
        self.connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=harness.PATIENCE)

    def complete(self, text):
        began = time.monotonic()
        self.connection.request("POST", "/v1/chat/completions", json.dumps(ask(text)), {"content-type": "application/json"})
        answer = self.connection.getresponse()
        body = json.load(answer)
        assert answer.status == 200, body
        return body["choices"][0]["message"]["content"], time.monotonic() - began


def load(clients, numbers):
    """Completions of all `numbers`, one at a time for each client; the seconds that each took."""
    numbers, times = iter(numbers), []

    def work(client):
        for number in numbers:
            said, took = clients[client].complete(f"{number} {PROMPT}")
            assert said == SAID, said
            times.append(took)

    in_parallel(len(clients), work)
    return times


class Endurance(unittest.TestCase):
    def test_many_completions(self):
        model = harness.Model()
        self.addCleanup(model.kill)
        proxy = harness.Proxy(model)
        self.addCleanup(proxy.close)
        own = harness.Seen(proxy.process.pid)

        def memory():
            return sum(seen.rss() for seen in proxy.app_servers())

        clients = [Client(proxy) for _ in range(AT_ONCE)]
        for client in clients:
            self.addCleanup(client.connection.close)
        clients[0].complete("the first")
        fresh, peak, over = memory(), [0.0], threading.Event()
        if NATIVE_EVER:
            bare = Bare(proxy)
            self.addCleanup(bare.close)

        def watch():
            while not over.wait(0.05):
                peak[0] = max(peak[0], memory())

        watcher = threading.Thread(target=watch)
        watcher.start()
        ours, theirs, owns = [], [], []
        try:
            # In turns, so that what else this machine does hits both.
            for round in range(ROUNDS):
                part = range(round * COUNT // ROUNDS, (round + 1) * COUNT // ROUNDS)
                ours += load(clients, part)
                if NATIVE_EVER:
                    theirs += load([bare] * AT_ONCE, part)
                owns.append(own.rss())
        finally:
            over.set()
            watcher.join()

        print(f"\n  {VERSION}: fresh {fresh:.0f} MB, peak {peak[0]:.0f} MB, median {statistics.median(ours) * 1000:.0f} ms, "
              f"the proxy itself from {owns[0]:.1f} to {owns[-1]:.1f} MB", flush=True)
        if theirs:
            ratio = statistics.median(ours) / statistics.median(theirs)
            print(f"  {VERSION}: {ratio:.2f} x a bare client", flush=True)
            self.assertLessEqual(ratio, 1.3)
        if NEWEST:
            self.assertLess(peak[0], fresh + 120)
        else:
            self.assertLess(peak[0], 2 * fresh + 240)
            eventually(f"from {memory():.0f} MB to {fresh + GROWTH:.0f} MB", lambda: memory() <= fresh + GROWTH, 15)
        self.assertLess(owns[-1], owns[0] + 4)


if __name__ == "__main__":
    unittest.main()
