"""What the proxy itself refuses, as the exceptions of the SDK."""

import unittest

import openai

import harness
from failing import Failing
from harness import ask


def setUpModule():
    global model
    model = harness.Model()


def tearDownModule():
    model.kill()


class Refusals(Failing):
    @classmethod
    def setUpClass(cls):
        cls.strict = harness.Proxy(model, {
            "PROXY_API_KEY": "k", "PROXY_MAX_BODY_BYTES": "5000", "PROXY_IDLE_TIMEOUT_MS": "300", "PROXY_SSE_MAX_CONCURRENCY": "1",
            "PROXY_QUEUE_MS": "100"})
        cls.client = cls.strict.client(api_key="k")

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.strict.close()

    def test_keys(self):
        with self.strict.client(api_key="wrong") as wrong:
            self.fails("x", openai.AuthenticationError, 401, "invalid_api_key", wrong)
            with self.assertRaises(openai.AuthenticationError):
                wrong.models.list()
        for headers in ({"authorization": "bearer k"}, {"authorization": "BEARER  k"}, {"x-api-key": "k"}, {"authorization": "Bearer no", "x-api-key": "k"}):
            self.assertEqual(self.strict.get("/v1/models", headers)[0], 200, headers)
        for headers in ({}, {"authorization": "Basic k"}, {"authorization": "k"}, {"x-api-key": "K"}):
            self.assertEqual(self.strict.get("/v1/models", headers)[0], 401, headers)

    def test_too_large(self):
        for error in self.fails("x" * 6000, openai.APIStatusError, 413, "body_too_large"):
            self.assertIn("5000", str(error))

    def test_no_answer_in_time(self):
        for error in self.fails("[[silent]]", openai.InternalServerError, 504, "timeout"):
            self.assertEqual(error.response.headers["x-should-retry"], "false")
            self.assertIn("PROXY_IDLE_TIMEOUT_MS", str(error))

    def test_too_many_turns(self):
        with self.client.chat.completions.create(**ask("[[words 3000]] [[gap 50]]"), stream=True) as busy:
            next(iter(busy))
            for error in self.fails("x", openai.RateLimitError, 429, "too_many_turns"):
                self.assertIn("retry-after", error.response.headers)
                self.assertNotIn("x-should-retry", error.response.headers)

    def test_no_app_server(self):
        down = harness.Proxy(model, {"CODEX_BIN": "/nowhere/codex", "PROXY_QUEUE_MS": "100"}, wait=False)
        self.addCleanup(down.close)
        with down.client() as using:
            for error in self.fails("x", openai.InternalServerError, 503, "backend_unavailable", using):
                self.assertIn("retry-after", error.response.headers)


if __name__ == "__main__":
    unittest.main()
