"""A client that leaves frees its turn at once, and the model sees it within half a second."""

import time
import unittest

import harness
from harness import ask, eventually
from versions import NEWEST

# Long, and never silent: up to 0.146 codex drops a connection only while the model sends.
TALK = "[[words 3000]] [[gap 20]]"
LIMIT_MS = 500


def setUpModule():
    global model, proxy
    model = harness.Model()
    proxy = harness.Proxy(model, {"PROXY_SSE_MAX_CONCURRENCY": "1", "PROXY_QUEUE_MS": "2000"})


def tearDownModule():
    proxy.close()
    model.kill()


class Base(unittest.TestCase):
    def setUp(self):
        model.reset()

    def left(self, when):
        """Checks that the model's only answer was dropped, and that the only permit is free again."""
        finished = eventually("the model sees the end", lambda: model.connections()["finished"])
        self.assertTrue(finished[0]["early"], finished)
        self.assertLess(finished[0]["closed_ms"] - when * 1000, LIMIT_MS)
        with proxy.client() as client:
            self.assertEqual(client.chat.completions.create(**ask("still here")).choices[0].message.content, "still here")
        self.assertTrue(proxy.ready())


class Leaving(Base):
    def test_in_mid_stream(self):
        with proxy.client() as client:
            stream = client.chat.completions.create(**ask(TALK), stream=True)
            for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
            when = time.time()
            stream.close()
            self.left(when)

    def test_while_a_whole_answer_is_made(self):
        connection = harness.send_raw(proxy.port, ask(TALK))
        eventually("the model answers", lambda: any(stream["events"] > 10 for stream in model.connections()["open"]))
        when = time.time()
        connection.close()
        self.left(when)

    def test_while_the_head_is_held_back(self):
        connection = harness.send_raw(proxy.port, ask("[[reason x]] " + TALK, stream=True))
        eventually("the model answers", lambda: model.connections()["open"])
        when = time.time()
        connection.close()
        self.left(when)

    def test_in_the_queue(self):
        first = harness.send_raw(proxy.port, ask(TALK, stream=True))
        self.addCleanup(first.close)
        eventually("the first runs", lambda: model.connections()["open"])
        second = harness.send_raw(proxy.port, ask("never asked"))
        second.close()
        first.close()
        with proxy.client() as client:
            client.chat.completions.create(**ask("third"))
        self.assertNotIn("never asked", str(model.requests()))


if NEWEST:
    # Up to 0.146 codex keeps the connection while the model is silent, whatever one does.
    class LeavingASilentModel(Base):
        def test_while_the_model_is_silent(self):
            for stream in (False, True):
                model.reset()
                connection = harness.send_raw(proxy.port, ask("[[hang]]", stream=stream))
                eventually("the model falls silent", lambda: any(open["events"] > 8 for open in model.connections()["open"]))
                when = time.time()
                connection.close()
                self.left(when)


if __name__ == "__main__":
    unittest.main()
