"""600 completions, 8 at a time: none fails, memory stays bounded, and nobody waits for what keeps it so."""

import queue
import statistics
import threading
import time
import unittest

import harness
from bare import Bare
from harness import NEWEST, ask, eventually, in_parallel

COUNT, AT_ONCE = 600, 8
PROMPT = "x" * 1500 + " [[words 20]]"
SAID = "".join(f"w{word} " for word in range(20))
# What the proxy lets a codex grow before the next one takes over, in MB.
GROWTH = 128


def load(complete):
    """COUNT completions, AT_ONCE at a time; the seconds that each took."""
    numbers, times = queue.SimpleQueue(), []
    for number in range(COUNT):
        numbers.put(number)

    def work(_):
        while True:
            try:
                number = numbers.get_nowait()
            except queue.Empty:
                return
            said, took = complete(f"{number} {PROMPT}")
            assert said == SAID, said
            times.append(took)

    in_parallel(AT_ONCE, work)
    return times


class Endurance(unittest.TestCase):
    def test_600_completions(self):
        model = harness.Model()
        self.addCleanup(model.kill)
        proxy = harness.Proxy(model)
        self.addCleanup(proxy.close)
        client = proxy.client()
        self.addCleanup(client.close)

        def complete(text):
            began = time.monotonic()
            answer = client.chat.completions.create(**ask(text))
            return answer.choices[0].message.content, time.monotonic() - began

        def memory():
            return sum(seen.rss() for seen in proxy.app_servers())

        complete("the first")
        fresh, peak, over = memory(), [0.0], threading.Event()

        def watch():
            while not over.wait(0.05):
                peak[0] = max(peak[0], memory())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            times = load(complete)
        finally:
            over.set()
            watcher.join()

        bare = Bare(model)
        self.addCleanup(bare.close)
        ratio = statistics.median(times) / statistics.median(load(bare.complete))
        print(f"\n  {harness.VERSION}: fresh {fresh:.0f} MB, peak {peak[0]:.0f} MB, "
              f"median {statistics.median(times) * 1000:.0f} ms = {ratio:.2f} x bare", flush=True)
        if NEWEST:
            self.assertLess(peak[0], fresh + 120)
        else:
            self.assertLess(peak[0], 2 * fresh + 240)
            eventually("the last one is within its limit", lambda: memory() <= fresh + GROWTH, 10)
        self.assertLessEqual(ratio, 1.3)


if __name__ == "__main__":
    unittest.main()
