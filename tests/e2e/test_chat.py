"""Streamed and whole completions through the official Python SDK."""

import asyncio
import json
import unittest

import harness
from harness import ask, events, eventually
from versions import LISTED


def setUpModule():
    global model, proxy, client
    model = harness.Model()
    proxy = harness.Proxy(model)
    client = proxy.client()


def tearDownModule():
    client.close()
    proxy.close()
    model.kill()


class Whole(unittest.TestCase):
    def test_text_usage_and_finish(self):
        answer = client.chat.completions.create(**ask("hello world [[usage 31 21 11 7]]"))
        choice = answer.choices[0]
        self.assertEqual((choice.message.role, choice.message.content), ("assistant", "hello world"))
        self.assertEqual((choice.index, choice.finish_reason), (0, "stop"))
        self.assertEqual((answer.object, answer.model), ("chat.completion", LISTED))
        self.assertTrue(answer.id.startswith("chatcmpl-"), answer.id)
        usage = answer.usage
        self.assertEqual((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (31, 11, 42))
        self.assertEqual(usage.prompt_tokens_details.cached_tokens, 21)
        self.assertEqual(usage.completion_tokens_details.reasoning_tokens, 7)

    def test_reasoning(self):
        answer = client.chat.completions.create(**ask("hi [[reason First part.]] [[reason Second part.]]"))
        self.assertEqual(answer.choices[0].message.reasoning_content, "First part.\n\nSecond part.")
        self.assertEqual(answer.choices[0].message.content, "hi")

    def test_no_trace_of_codex(self):
        raw = client.chat.completions.with_raw_response.create(**ask("hello"))
        for text in (raw.text.lower(), str(raw.headers).lower()):
            for word in ("codex", "thread", "turn"):
                self.assertNotIn(word, text)
        self.assertTrue(raw.headers["x-request-id"])

    def test_an_absent_model_and_the_default_name(self):
        default = next(iter(client.models.list())).id
        for name in (None, "codex-5", default):
            body = ask("hello", model=name)
            status, _, text = proxy.post(body)
            self.assertEqual(status, 200, text)
            self.assertEqual(json.loads(text)["choices"][0]["message"]["content"], "hello")


class Streamed(unittest.TestCase):
    def test_chunks_in_order(self):
        chunks = list(client.chat.completions.create(**ask("one two three"), stream=True))
        first, last = chunks[0].choices[0], chunks[-1].choices[0]
        self.assertEqual((first.delta.role, first.delta.content), ("assistant", ""))
        self.assertEqual("".join(chunk.choices[0].delta.content or "" for chunk in chunks), "one two three")
        self.assertEqual([chunk.choices[0].finish_reason for chunk in chunks[:-1]], [None] * (len(chunks) - 1))
        self.assertEqual((last.finish_reason, last.delta.content), ("stop", None))
        self.assertEqual({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in chunks},
                         {(chunks[0].id, chunks[0].created, LISTED, "chat.completion.chunk")})
        self.assertEqual([chunk.usage for chunk in chunks], [None] * len(chunks))

    def test_usage_only_when_asked_for(self):
        body = ask("hello [[usage 31 21 11 7]]")
        *chunks, last = client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
        self.assertEqual((last.choices, last.usage.prompt_tokens, last.usage.completion_tokens), ([], 31, 11))
        self.assertEqual(last.usage.prompt_tokens_details.cached_tokens, 21)
        self.assertEqual(last.usage.completion_tokens_details.reasoning_tokens, 7)
        for chunk in chunks:
            self.assertEqual(chunk.model_dump(include={"usage"}), {"usage": None})

    def test_the_wire(self):
        status, headers, text = proxy.post(ask("one two", stream=True))
        self.assertEqual((status, headers["content-type"].split(";")[0]), (200, "text/event-stream"))
        self.assertEqual((headers["cache-control"], headers["x-accel-buffering"]), ("no-cache", "no"))
        self.assertTrue(text.endswith("data: [DONE]\n\n"))
        self.assertNotIn("usage", text)
        self.assertTrue(all(json.loads(event)["choices"] for event in events(text)[:-1]))

    def test_reasoning_before_text(self):
        chunks = client.chat.completions.create(**ask("hi [[reason First part.]] [[reason Second part.]]"), stream=True)
        deltas = [chunk.choices[0].delta for chunk in chunks]
        reasoning = [getattr(delta, "reasoning_content", None) for delta in deltas]
        self.assertEqual("".join(filter(None, reasoning)), "First part.\n\nSecond part.")
        last_reasoning = max(index for index, text in enumerate(reasoning) if text)
        first_text = min(index for index, delta in enumerate(deltas) if delta.content)
        self.assertLess(last_reasoning, first_text)

    def test_32_at_once_each_only_its_own_text(self):
        async def one(client, number):
            text = f"[[say answer {number} " + f"word-{number} " * 20 + "]] [[gate together]]"
            stream = await client.chat.completions.create(**ask(text), stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        async def all_of_them():
            async with proxy.async_client() as client:
                tasks = [asyncio.create_task(one(client, number)) for number in range(32)]
                def together():
                    return len(model.connections()["open"]) == 32
                await asyncio.to_thread(eventually, "32 answers run at once", together)
                await asyncio.to_thread(model.open_gate, "together")
                return await asyncio.gather(*tasks)

        model.reset()
        for number, text in enumerate(asyncio.run(all_of_them())):
            self.assertEqual(text.strip(), (f"answer {number} " + f"word-{number} " * 20).strip())
        self.assertEqual(len(proxy.app_servers()), 1)


class Leniency(unittest.TestCase):
    def test_unknown_and_harmless_fields(self):
        more = {"temperature": 0.3, "top_p": 1, "seed": 7, "presence_penalty": 1, "frequency_penalty": 1, "user": "u",
                "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "n": 1, "stop": None, "tools": None,
                "future_field": {"x": [1]}, "logit_bias": {}}
        status, _, text = proxy.post(ask("hello", **more))
        self.assertEqual(status, 200, text)
        self.assertEqual(json.loads(text)["choices"][0]["message"]["content"], "hello")

    def test_paths_without_the_version(self):
        status, _, text = proxy.post(ask("hello"), "/chat/completions")
        self.assertEqual(status, 200, text)


if __name__ == "__main__":
    unittest.main()
