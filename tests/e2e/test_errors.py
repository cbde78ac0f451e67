"""Failures of the model's service reach clients as the exceptions of their SDK, and nothing of them leaks."""

import json
import re
import time
import unittest

import openai

import harness
from failing import APIS, Failing
from harness import ask, events
from versions import LISTED, PROTOCOL, needs, since


def setUpModule():
    global model, proxy, client
    model = harness.Model()
    proxy = harness.Proxy(model)
    client = proxy.client()


def tearDownModule():
    client.close()
    proxy.close()
    model.kill()


class Upstream(Failing):
    def setUp(self):
        self.client = client

    def test_not_logged_in(self):
        for error in self.fails("[[fail 401 invalid_api_key]]", openai.AuthenticationError, 401, "upstream_unauthorized"):
            self.assertIn("codex login", str(error))
            self.assertEqual(error.response.headers["x-should-retry"], "false")

    def test_quota_used_up(self):
        for prompt in ("[[fail 429 usage_limit_reached]]", "[[fail-start insufficient_quota]]"):
            for error in self.fails(prompt, openai.RateLimitError, 429, "insufficient_quota"):
                self.assertEqual(error.response.headers["x-should-retry"], "false")
                self.assertNotIn("retry-after", error.response.headers)

    def test_when_a_limit_begins_anew(self):
        def window(name, percent, after):
            return (f"[[header x-codex-{name}-used-percent {percent}]] [[header x-codex-{name}-window-minutes 300]]"
                    f"[[header x-codex-{name}-reset-at {int(time.time()) + after}]]")

        # Of its own, as codex remembers what it was told last.
        limited = harness.Proxy(model)
        self.addCleanup(limited.close)
        with limited.client() as using:
            for percent, seconds in ((40, 3600), (100, 90000)):
                told = window("primary", 100, 3600) + window("secondary", percent, 90000)
                for prompt, code in (("[[fail 429 usage_limit_reached]]", "insufficient_quota"), ("[[fail-start rate_limit_exceeded]]", "rate_limit_exceeded")):
                    for error in self.fails(prompt + told, openai.RateLimitError, 429, code, using, ["chat"]):
                        # v1 tells of limits to those only who ask.
                        if PROTOCOL == "v2":
                            self.assertAlmostEqual(int(error.response.headers["retry-after"]), seconds, delta=5)

    def test_rate_limited(self):
        for error in self.fails("[[fail 429 rate_limit_exceeded]]", openai.RateLimitError, 429, "rate_limit_exceeded"):
            self.assertNotIn("x-should-retry", error.response.headers)

    def test_overloaded_and_broken(self):
        for error in self.fails("[[fail-start server_is_overloaded]]", openai.InternalServerError, 503, "upstream_overloaded"):
            self.assertIn("retry-after", error.response.headers)
        self.fails("[[fail 500 boom]]", openai.InternalServerError, 502, "upstream_error", apis=["chat"])
        self.fails("[[fail-start boom]]", openai.InternalServerError, 502, "upstream_error")

    def test_what_the_service_does_not_take(self):
        self.fails("[[fail 400 context_length_exceeded]]", openai.BadRequestError, 400, "context_length_exceeded")
        self.fails("[[fail-start context_length_exceeded]]", openai.BadRequestError, 400, "context_length_exceeded", apis=["chat"])
        self.fails("[[fail 400 invalid_value]]", openai.BadRequestError, 400, None)
        self.fails("[[fail 404 model_not_found]]", openai.NotFoundError, 404, "model_not_found")

    def test_the_sdk_tries_again_where_that_helps_only(self):
        for prompt, times in (("[[fail 429 usage_limit_reached]]", 1), ("[[fail 401 invalid_api_key]]", 1), ("[[fail-start server_is_overloaded]]", 2)):
            with self.subTest(prompt), proxy.client(max_retries=1) as patient:
                model.reset()
                with self.assertRaises(openai.APIStatusError):
                    patient.chat.completions.create(**ask(prompt))
                # One conversation for each try of the SDK; codex's own tries are of the same.
                self.assertEqual(len({turn["prompt_cache_key"] for turn in model.turns()}), times)

    @needs("cuts")
    def test_cut_and_filtered_answers_are_answers(self):
        for reason, finish in (("max_output_tokens", "length"), ("content_filter", "content_filter")):
            prompt = f"one two three [[incomplete {reason}]]"
            whole = client.chat.completions.create(**ask(prompt)).choices[0]
            self.assertEqual((whole.finish_reason, whole.message.content), (finish, "one two three"))
            chunks = list(client.chat.completions.create(**ask(prompt), stream=True))
            self.assertEqual(chunks[-1].choices[0].finish_reason, finish)
            self.assertEqual("".join(chunk.choices[0].delta.content or "" for chunk in chunks), "one two three")


class InTheMiddle(unittest.TestCase):
    def test_an_error_after_text_ends_the_stream(self):
        status, _, text = proxy.post(ask("[[words 6]] [[gap 60]] [[fail-mid insufficient_quota]]", stream=True))
        self.assertEqual(status, 200)
        *chunks, error, done = events(text)
        self.assertEqual((json.loads(error)["error"]["code"], done), ("insufficient_quota", "[DONE]"))
        self.assertEqual("".join(json.loads(chunk)["choices"][0]["delta"].get("content") or "" for chunk in chunks), "w0 w1 w2 ")
        self.assertNotRegex(text, r'"finish_reason":"')
        for name, api in APIS.items():
            with self.subTest(name), self.assertRaises(openai.APIError) as raised:
                list(api(client, "[[words 6]] [[gap 60]] [[fail-mid insufficient_quota]]", stream=True))
            self.assertEqual(raised.exception.code, "insufficient_quota")

    def test_a_retry_says_nothing_twice(self):
        for fault in ("[[fail-mid rate_limit_exceeded]]", "[[cut]]", "[[fail-end rate_limit_exceeded]]"):
            prompt = f"[[say one two three four]] {fault} [[once]]"
            with self.subTest(fault):
                model.reset()
                chunks = client.chat.completions.create(**ask(prompt), stream=True)
                self.assertEqual("".join(chunk.choices[0].delta.content or "" for chunk in chunks), "one two three four")
                self.assertEqual(len(model.turns()), 2)
                model.reset()
                answer = client.chat.completions.create(**ask(prompt))
                self.assertEqual(answer.choices[0].message.content, "one two three four")

    def test_a_retry_that_says_something_else(self):
        _, _, text = proxy.post(ask("[[say one two three four]] [[gap 50]] [[cut]] [[once]] [[then something else]]", stream=True))
        *chunks, error, done = events(text)
        self.assertIn("error", json.loads(error))
        self.assertEqual(done, "[DONE]")
        self.assertNotIn("something", text)


class Requests(unittest.TestCase):
    def test_bad_ones(self):
        for body, param in (
            ({"model": LISTED}, "messages"),
            ({"model": LISTED, "messages": []}, "messages"),
            ({"model": LISTED, "messages": [{"role": "user", "content": "x"}, {"role": "wizard", "content": "x"}]}, "messages[1].role"),
            ({"model": LISTED, "messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
            ({"model": 7, "messages": [{"role": "user", "content": "x"}]}, "model"),
            (ask("x", n=0), "n"),
            (ask("x", n=9), "n"),
            (ask("x", stream="yes"), "stream"),
            # Where no model is listed, it is codex that refuses it.
            (ask("x", reasoning_effort="enormous"), "reasoning_effort" if since(50) else None),
        ):
            with self.subTest(param):
                status, _, text = proxy.post(body)
                error = json.loads(text)["error"]
                self.assertEqual((status, error["param"], error["type"]), (400, param, "invalid_request_error"), text)

    def test_what_cannot_be_served(self):
        for field, value in (("logprobs", True), ("modalities", ["text", "audio"]), ("audio", {"voice": "x", "format": "wav"})):
            with self.subTest(field), self.assertRaises(openai.BadRequestError) as raised:
                client.chat.completions.create(**ask("x"), extra_body={field: value})
            self.assertEqual(raised.exception.code, "unsupported_parameter")

    def test_not_json_and_no_route(self):
        for path, verb, data, status, code in (
            ("/v1/chat/completions", "POST", "{", 400, None), ("/v1/nothing", "GET", None, 404, "unknown_url"),
            ("/v1/chat/completions", "GET", None, 405, None),
        ):
            answer = client._client.request(verb, proxy.url.removesuffix("/v1") + path, content=data)
            self.assertEqual(answer.status_code, status, answer.text)
            self.assertTrue(answer.json()["error"]["message"])
            if code:
                self.assertEqual(answer.json()["error"]["code"], code)
            if status == 405:
                self.assertIn("POST", answer.headers["allow"])
            self.assertTrue(re.fullmatch(r"\S+", answer.headers["x-request-id"]))


class Names(Failing):
    def test_an_unknown_model_of_the_built_in_provider(self):
        files = {"auth.json": '{"OPENAI_API_KEY":"sk-scripted"}', "config.toml": f'openai_base_url = "{model.url}"\n'}
        builtin = harness.Proxy(model, files=files)
        self.addCleanup(builtin.close)
        with builtin.client() as using:
            if not since(50):
                # Which models there are is not told: any name passes.
                return self.assertEqual(using.chat.completions.create(**ask("hello", model="any")).choices[0].message.content, "hello")
            for error in self.fails("x", openai.NotFoundError, 404, "model_not_found", using, model="no-such-model"):
                self.assertEqual(error.param, "model")
            answer = using.chat.completions.create(**ask("hello"))
            self.assertEqual(answer.choices[0].message.content, "hello")


if __name__ == "__main__":
    unittest.main()
