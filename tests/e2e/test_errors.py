"""Failures of the model's service reach clients as the exceptions of their SDK, and nothing of them leaks."""

import json
import re
import unittest

import openai

import harness
from harness import LISTED, ask, events


def setUpModule():
    global model, proxy, client
    model = harness.Model()
    proxy = harness.Proxy(model)
    client = proxy.client()


def tearDownModule():
    client.close()
    proxy.close()
    model.kill()


class Upstream(unittest.TestCase):
    def fails(self, prompt, exception, code, status=None):
        """The same error whole and streamed, before anything was said."""
        for stream in (False, True):
            with self.subTest(prompt, stream=stream), self.assertRaises(exception) as raised:
                list(client.chat.completions.create(**ask(prompt), stream=stream))
            error = raised.exception
            if not isinstance(error, openai.APIStatusError):
                continue
            self.assertEqual(error.code, code)
            if status:
                self.assertEqual(error.status_code, status)
            self.assertNotRegex(str(error), r"https?://|127\.0\.0\.1|/home|/tmp")
            yield error

    def test_not_logged_in(self):
        for error in self.fails("[[fail 401 invalid_api_key]]", openai.AuthenticationError, "upstream_unauthorized"):
            self.assertIn("codex login", str(error))

    def test_quota_used_up(self):
        for prompt in ("[[fail 429 usage_limit_reached]]", "[[fail-start insufficient_quota]]"):
            for error in self.fails(prompt, openai.RateLimitError, "insufficient_quota"):
                self.assertEqual(error.response.headers["x-should-retry"], "false")

    def test_rate_limited(self):
        for error in self.fails("[[fail 429 rate_limit_exceeded]]", openai.RateLimitError, "rate_limit_exceeded"):
            self.assertNotIn("x-should-retry", error.response.headers)

    def test_overloaded_and_broken(self):
        for error in self.fails("[[fail-start server_is_overloaded]]", openai.InternalServerError, "upstream_overloaded", 503):
            self.assertIn("retry-after", error.response.headers)
        list(self.fails("[[fail 500 boom]]", openai.InternalServerError, "upstream_error", 502))

    def test_too_long_a_conversation(self):
        list(self.fails("[[fail 400 context_length_exceeded]]", openai.BadRequestError, "context_length_exceeded"))

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
        with self.assertRaises(openai.APIError):
            list(client.chat.completions.create(**ask("[[words 6]] [[gap 60]] [[fail-mid insufficient_quota]]"), stream=True))

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
            (ask("x", reasoning_effort="enormous"), "reasoning_effort"),
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


class Names(unittest.TestCase):
    def test_an_unknown_model_of_the_built_in_provider(self):
        files = {"auth.json": '{"OPENAI_API_KEY":"sk-scripted"}', "config.toml": f'openai_base_url = "{model.url}"\n'}
        builtin = harness.Proxy(model, files=files)
        self.addCleanup(builtin.close)
        with self.assertRaises(openai.NotFoundError) as raised:
            builtin.client().chat.completions.create(**ask("x", model="no-such-model"))
        self.assertEqual((raised.exception.code, raised.exception.param), ("model_not_found", "model"))
        answer = builtin.client().chat.completions.create(**ask("hello"))
        self.assertEqual(answer.choices[0].message.content, "hello")


if __name__ == "__main__":
    unittest.main()
