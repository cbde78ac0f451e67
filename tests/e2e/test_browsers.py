"""Browsers of other origins, and the headers that every answer has."""

import unittest

import harness
from harness import ask

ALLOW = "access-control-allow-origin"


def setUpModule():
    global model
    model = harness.Model()


def tearDownModule():
    model.kill()


class WithProxy(unittest.TestCase):
    env = {}

    @classmethod
    def setUpClass(cls):
        cls.proxy = harness.Proxy(model, {"PROXY_API_KEY": "k", **cls.env})

    @classmethod
    def tearDownClass(cls):
        cls.proxy.close()

    def answers(self, origin):
        """One answer of every kind to a page of this origin: (status, headers)."""
        key = {"authorization": "Bearer k", "origin": origin}
        yield self.proxy.raw("GET", "/v1/models", key)[:2]
        yield self.proxy.raw("GET", "/readyz", {"origin": origin})[:2]
        yield self.proxy.raw("GET", "/v1/models", {"origin": origin})[:2]
        yield self.proxy.raw("GET", "/v1/nothing", key)[:2]
        yield self.proxy.raw("GET", "/v1/chat/completions", key)[:2]
        yield self.proxy.post(ask("hi"), headers=key)[:2]
        yield self.proxy.post(ask("hi", stream=True), headers=key)[:2]
        yield self.proxy.post({"model": "x"}, headers=key)[:2]
        yield self.proxy.post(ask("[[fail-start insufficient_quota]]"), headers=key)[:2]
        yield self.proxy.post({"input": "hi"}, "/v1/responses", key)[:2]
        yield self.proxy.post({"prompt": "hi"}, "/v1/completions", key)[:2]

    STATUSES = [200, 200, 401, 404, 405, 200, 200, 400, 429, 200, 200]

    def preflight(self, origin, path="/v1/chat/completions"):
        return self.proxy.raw("OPTIONS", path, {
            "origin": origin, "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-stainless-lang,http-referer"})


class Off(WithProxy):
    """As it comes."""

    def test_no_other_origin_is_answered(self):
        for (status, headers), expected in zip(self.answers("https://app.example"), self.STATUSES, strict=True):
            self.assertEqual((status, [name for name in headers if name.startswith("access-control")]), (expected, []))
        status, headers, _ = self.preflight("https://app.example")
        self.assertEqual((status, headers[ALLOW]), (405, None))

    def test_request_ids(self):
        for given, is_taken in (("my-Id_1.2", True), ("x" * 128, True), ("x" * 129, False), ("with space", False), ("a/b", False), ("ünï", False)):
            _, headers, _ = self.proxy.raw("GET", "/v1/models", {"authorization": "Bearer k", "x-request-id": given.encode()})
            self.assertEqual(headers["x-request-id"] == given, is_taken, given)
            self.assertRegex(headers["x-request-id"], r"^[A-Za-z0-9._-]{1,128}$")
            self.assertEqual(len(headers.get_all("x-request-id")), 1)
        ids = {self.proxy.raw("GET", "/v1/models")[1]["x-request-id"] for _ in range(20)}
        self.assertEqual(len(ids), 20)
        _, headers, _ = self.proxy.post(ask("hi", stream=True), headers={"authorization": "Bearer k", "x-request-id": "mine"})
        self.assertEqual(headers["x-request-id"], "mine")
        harness.eventually("the log names it", lambda: "request=mine" in self.proxy.process.stderr())

    def test_processing_time(self):
        for _, headers in self.answers("https://app.example"):
            self.assertRegex(headers["openai-processing-ms"], r"^\d+$")
        _, headers, _ = self.proxy.post(ask("hi [[wait 300]]"), headers={"authorization": "Bearer k"})
        self.assertTrue(300 <= int(headers["openai-processing-ms"]) < 3000, headers["openai-processing-ms"])


class Everybody(WithProxy):
    env = {"PROXY_ENABLE_CORS": "on"}

    def test_every_answer_may_be_read(self):
        for (status, headers), expected in zip(self.answers("https://app.example"), self.STATUSES, strict=True):
            self.assertEqual((status, headers[ALLOW]), (expected, "*"))
            self.assertIn("x-request-id", headers["access-control-expose-headers"])

    def test_a_preflight_needs_no_key(self):
        for path in ("/v1/chat/completions", "/v1/responses/resp_x", "/v1/models"):
            status, headers, text = self.preflight("https://app.example", path)
            self.assertEqual((status, headers[ALLOW], text), (204, "*", ""))
            self.assertEqual(headers["access-control-allow-headers"], "authorization,content-type,x-stainless-lang,http-referer")
            self.assertTrue({"GET", "POST", "DELETE"} <= set(headers["access-control-allow-methods"].split(", ")))
        # The key itself is needed all the same.
        self.assertEqual(self.proxy.post(ask("hi"), headers={"origin": "https://app.example"})[0], 401)


class Some(WithProxy):
    env = {"PROXY_ENABLE_CORS": "on", "PROXY_CORS_ALLOWED_ORIGINS": "https://app.example,http://localhost:3000"}

    def test_only_those_on_the_list(self):
        for origin, may in (("https://app.example", True), ("http://localhost:3000", True), ("https://app.example.evil", False),
                            ("http://app.example", False), ("null", False)):
            for (status, headers), expected in zip(self.answers(origin), self.STATUSES, strict=True):
                self.assertEqual((status, headers[ALLOW]), (expected, origin if may else None))
                self.assertIn("origin", headers["vary"].lower())
            status, headers, _ = self.preflight(origin)
            self.assertEqual(headers[ALLOW], origin if may else None)


if __name__ == "__main__":
    unittest.main()
