"""codex or the proxy is killed, stopped or replaced under load."""

import json
import os
import signal
import time
import unittest

import openai

import harness
from harness import ask, events, eventually, in_parallel


def setUpModule():
    global model
    model = harness.Model()


def tearDownModule():
    model.kill()


class Faults(unittest.TestCase):
    def setUp(self):
        model.reset()
        self.proxy = harness.Proxy(model)
        self.addCleanup(self.proxy.close)

    def hello(self):
        with self.proxy.client() as client:
            return client.chat.completions.create(**ask("hello")).choices[0].message.content

    def test_codex_killed_under_16_streams(self):
        codex = self.proxy.app_server()

        talking = []

        def one(number):
            if number == 16:
                eventually("each client has its first words", lambda: len(talking) == 16)
                os.kill(codex.pid, signal.SIGKILL)
                return time.monotonic()
            with self.proxy.request(ask(f"[[say number-{number} b c]] [[hang]]", stream=True)) as answer:
                text = b""
                while b'c"}' not in text:
                    text += answer.readline()
                talking.append(number)
                return (text + answer.read()).decode(), time.monotonic()

        *answers, killed = in_parallel(17, one)
        for number, (text, ended) in enumerate(answers):
            *chunks, error, done = events(text)
            self.assertEqual((json.loads(error)["error"]["code"], done), ("backend_unavailable", "[DONE]"), text)
            said = "".join(json.loads(chunk)["choices"][0]["delta"].get("content") or "" for chunk in chunks)
            self.assertEqual(said, f"number-{number} b c")
            self.assertLess(ended - killed, 0.3)
        self.assertEqual(self.hello(), "hello")
        self.assertLess(time.monotonic() - killed, 3.0)
        self.assertNotEqual(self.proxy.app_server().pid, codex.pid)

    def test_codex_killed_before_an_answer(self):
        codex = self.proxy.app_server()

        def one(number):
            if number == 1:
                eventually("it runs", lambda: model.connections()["open"])
                return os.kill(codex.pid, signal.SIGKILL)
            return self.proxy.post(ask("[[silent]]"))

        (status, headers, text), _ = in_parallel(2, one)
        self.assertEqual((status, json.loads(text)["error"]["code"]), (503, "backend_unavailable"))
        self.assertIn("retry-after", headers)
        self.assertEqual(self.hello(), "hello")

    def test_codex_stopped(self):
        codex = self.proxy.app_server()
        stream = iter(self.proxy.client().chat.completions.create(**ask("[[say a b]] [[hang]]"), stream=True))
        next(stream)
        os.kill(codex.pid, signal.SIGSTOP)
        with self.assertRaises(openai.APIError):
            list(stream)
        self.assertEqual(self.hello(), "hello")
        eventually("the stopped one is gone", lambda: not codex.alive(), 5)

    def test_proxy_killed(self):
        stream = iter(self.proxy.client().chat.completions.create(**ask("[[say a b]] [[hang]]"), stream=True))
        next(stream)
        family = harness.descendants(self.proxy.process.pid)
        self.assertTrue(family)
        self.proxy.process.signal(signal.SIGKILL)
        eventually("nothing of it is left", lambda: not any(seen.alive() for seen in family), 1)

    def test_codex_killed_again_and_again(self):
        for _ in range(3):
            codex = self.proxy.app_server()
            os.kill(codex.pid, signal.SIGKILL)
            eventually("there is another", lambda: self.proxy.app_servers() and self.proxy.app_server().pid != codex.pid)
            self.assertEqual(self.hello(), "hello")


if __name__ == "__main__":
    unittest.main()
