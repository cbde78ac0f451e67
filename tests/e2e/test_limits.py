"""Permits, deadlines, keepalives and the end of the program."""

import json
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


class WithProxy(unittest.TestCase):
    def proxy(self, **env):
        model.reset()
        proxy = harness.Proxy(model, env)
        self.addCleanup(proxy.close)
        return proxy


class Permits(WithProxy):
    def test_first_come_first_served_then_429(self):
        proxy = self.proxy(PROXY_SSE_MAX_CONCURRENCY="1", PROXY_QUEUE_MS="700", PROXY_API_KEY="k")
        client = proxy.client(api_key="k")
        stream = client.chat.completions.create(**ask("[[say a b]] [[gate first]]"), stream=True)
        self.assertTrue(next(iter(stream)))
        began = time.monotonic()
        with self.assertRaises(openai.RateLimitError) as raised:
            client.chat.completions.create(**ask("too many"))
        self.assertGreater(time.monotonic() - began, 0.6)
        self.assertIn("retry-after", raised.exception.response.headers)
        self.assertIn("PROXY_SSE_MAX_CONCURRENCY", str(raised.exception))
        # Everything that needs no turn still answers.
        self.assertEqual(proxy.get("/healthz")[0], 200)
        self.assertTrue(list(client.models.list()))
        self.assertEqual(proxy.get("/v1/models")[0], 401)
        model.open_gate("first")
        stream.close()

    def test_a_queue_is_worked_off_in_order(self):
        proxy = self.proxy(PROXY_SSE_MAX_CONCURRENCY="1", PROXY_QUEUE_MS="20000")
        client = proxy.client()
        stream = client.chat.completions.create(**ask("[[say a b]] [[gate first]]"), stream=True)
        next(iter(stream))
        started = []

        def later(number):
            eventually("those before are in", lambda: len(started) == number)
            started.append(number)
            # One connection is accepted after the other; the pause only makes the order certain.
            time.sleep(0.1 * (number + 1))
            return client.chat.completions.create(**ask(f"number {number}")).choices[0].message.content

        def all_later(number):
            if number == 4:
                eventually("all wait", lambda: len(started) == 4)
                time.sleep(0.8)
                return model.open_gate("first")
            return later(number)

        in_parallel(5, all_later)
        prompts = [turn["input"][-1]["content"][0]["text"] for turn in model.turns()]
        self.assertEqual(prompts[1:], [f"number {number}" for number in range(4)])
        stream.close()


class Deadlines(WithProxy):
    def test_idle_and_whole(self):
        for name, prompt in (("PROXY_IDLE_TIMEOUT_MS", "[[hang]]"), ("PROXY_TIMEOUT_MS", "[[words 3000]] [[gap 20]]")):
            with self.subTest(name):
                proxy = self.proxy(**{name: "600"})
                with self.assertRaises(openai.APIStatusError) as raised:
                    proxy.client().chat.completions.create(**ask(prompt))
                error = raised.exception
                self.assertEqual((error.status_code, error.code), (504, "timeout"))
                self.assertEqual(error.response.headers["x-should-retry"], "false")
                self.assertIn(name, str(error))
                _, _, text = proxy.post(ask(prompt, stream=True))
                *_, error, done = events(text)
                self.assertEqual((json.loads(error)["error"]["code"], done), ("timeout", "[DONE]"))

    def test_keepalives_while_the_model_is_silent(self):
        for kind in ("comment", "chunk"):
            proxy = self.proxy(PROXY_SSE_KEEPALIVE_MS="80", PROXY_SSE_KEEPALIVE=kind)
            _, _, text = proxy.post(ask("[[words 2]] [[gap 600]]", stream=True))
            comments = [part for part in text.split("\n\n") if part.startswith(":")]
            empty = [event for event in events(text)[1:-2] if json.loads(event)["choices"][0]["delta"] == {}]
            self.assertGreater(len(comments if kind == "comment" else empty), 3, text)
            self.assertEqual(len(empty if kind == "comment" else comments), 0, text)
            content = "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events(text)[:-1])
            self.assertEqual(content, "w0 w1 ")


class Shutdown(WithProxy):
    def test_a_running_stream_is_finished(self):
        proxy = self.proxy()
        client = proxy.client()
        stream = iter(client.chat.completions.create(**ask("[[say one two three]] [[gate go]]"), stream=True))
        next(stream)
        family = harness.descendants(proxy.process.pid)
        proxy.process.signal(signal.SIGTERM)
        eventually("it is not ready any more", lambda: not proxy.ready(), 2)
        with self.assertRaises((openai.APIConnectionError, openai.InternalServerError)) as raised:
            client.chat.completions.create(**ask("too late"))
        if isinstance(raised.exception, openai.InternalServerError):
            self.assertEqual(raised.exception.status_code, 503)
        model.open_gate("go")
        chunks = list(stream)
        self.assertEqual(chunks[-1].choices[0].finish_reason, "stop")
        self.assertEqual("".join(chunk.choices[0].delta.content or "" for chunk in chunks), "one two three")
        self.assertEqual(proxy.process.wait(), 0)
        eventually("nothing is left running", lambda: not any(seen.alive() for seen in family), 1)

    def test_the_grace_ends_and_a_second_signal_ends_at_once(self):
        proxy = self.proxy(PROXY_SHUTDOWN_GRACE_MS="500")
        stream = iter(proxy.client().chat.completions.create(**ask("[[say a b]] [[hang]]"), stream=True))
        next(stream)
        with self.assertRaises(openai.APIError):
            began = time.monotonic()
            proxy.process.signal(signal.SIGTERM)
            list(stream)
        self.assertEqual(proxy.process.wait(), 0)
        self.assertLess(time.monotonic() - began, 4)

        proxy = self.proxy(PROXY_SHUTDOWN_GRACE_MS="30000")
        stream = iter(proxy.client().chat.completions.create(**ask("[[say a b]] [[hang]]"), stream=True))
        next(stream)
        family = harness.descendants(proxy.process.pid)
        proxy.process.signal(signal.SIGTERM)
        eventually("it is not ready any more", lambda: not proxy.ready(), 2)
        proxy.process.signal(signal.SIGTERM)
        proxy.process.wait(2)
        eventually("nothing is left running", lambda: not any(seen.alive() for seen in family), 1)

    def test_at_rest(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            proxy = self.proxy()
            family = harness.descendants(proxy.process.pid)
            proxy.process.signal(number)
            self.assertEqual(proxy.process.wait(5), 0)
            eventually("nothing is left running", lambda: not any(seen.alive() for seen in family), 1)


if __name__ == "__main__":
    unittest.main()
