"""Each field of each API does what the README says of it, and each route exists with its verbs."""

import json
import unittest

import fields
import harness
from harness import conversation, offered
from versions import LISTED


def setUpModule():
    global model, proxy
    model = harness.Model()
    proxy = harness.Proxy(model)


def tearDownModule():
    proxy.close()
    model.kill()


BASE = {
    fields.CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    fields.RESPONSES: {"input": "hi"},
    fields.COMPLETIONS: {"prompt": "hi"},
}


def asked():
    """What the model was asked last, without what differs from turn to turn."""
    body = model.turns()[-1]
    kept = {name: body.get(name) for name in ("model", "reasoning", "parallel_tool_calls", "tool_choice")}
    return {**kept, "text": body.get("text") or {}, "conversation": conversation(body), "tools": [tool["name"] for tool in offered(body)]}


class Fields(unittest.TestCase):
    def ask(self, field):
        body = {"model": LISTED, **BASE[field.route], **field.body}
        status, _, text = proxy.post(body, field.route)
        stream = body.get("stream")
        return status, text if stream and status == 200 else json.loads(text)

    def test_all(self):
        for route, body in BASE.items():
            self.assertEqual(proxy.post({"model": LISTED, **body}, route)[0], 200)
            plain = asked()
            for field in (field for field in fields.FIELDS if field.route == route):
                with self.subTest(field.name, route=route, body=field.body):
                    if field.body.get("previous_response_id") == "STORED":
                        field.body["previous_response_id"] = json.loads(proxy.post({"input": "stored"}, route)[2])["id"]
                    model.reset()
                    status, answer = self.ask(field)
                    if field.verdict == fields.REFUSED:
                        self.assertEqual((status, answer["error"]["param"], answer["error"]["type"]),
                                         (400, field.param or field.name, "invalid_request_error"), answer)
                        self.assertEqual(model.turns(), [])
                        continue
                    self.assertEqual(status, 200, answer)
                    if field.body.get("stream"):
                        self.assertIn("data: ", answer)
                        self.assertEqual('"usage":{' in answer, field.name == "stream_options.include_usage" or route == fields.RESPONSES)
                    if field.verdict == fields.IDLE:
                        self.assertEqual(asked(), plain)
                    else:
                        self.assertTrue(field.sees(asked(), answer), (asked(), answer))

    def test_null_is_absent(self):
        for route, base in BASE.items():
            body = dict.fromkeys((field.name for field in fields.FIELDS if field.route == route and field.name.isidentifier()), None)
            status, _, text = proxy.post({**body, "model": LISTED, **base}, route)
            self.assertEqual(status, 200, text)

    def test_wrong_types_name_their_place(self):
        for route, base in BASE.items():
            for field in fields.FIELDS:
                top = field.name.split(".")[0].split("[")[0]
                # What is only looked at where it is known, and what has another name in the body.
                if field.route != route or field.verdict == fields.REFUSED or top not in field.body:
                    continue
                for odd in (7.5, "odd \u2028", {"odd": 1}, [[]], True):
                    status, _, text = proxy.post({"model": LISTED, **base, **field.body, top: odd}, route)
                    if status != 200:
                        error = json.loads(text)["error"]
                        self.assertIn(status, (400, 404), (top, odd, text))
                        self.assertTrue(error["param"].startswith(top) or "tool" in top or "function" in top or "stream" in top, (top, odd, text))
                self.assertNotIn("panicked", proxy.process.stderr())

    def test_the_readme_says_the_same(self):
        self.assertIn(fields.table(), (harness.ROOT / "README.md").read_text(), "python3 tests/e2e/fields.py prints the table")


class Routes(unittest.TestCase):
    ROUTES = {
        "/v1/chat/completions": "POST", "/chat/completions": "POST", "/v1/responses": "POST", "/responses": "POST",
        "/v1/completions": "POST", "/completions": "POST", "/v1/responses/resp_x": "GET, HEAD, DELETE", "/responses/resp_x": "GET, HEAD, DELETE",
        "/v1/models": "GET, HEAD", "/models": "GET, HEAD", f"/v1/models/{LISTED}": "GET, HEAD", f"/models/{LISTED}": "GET, HEAD",
        "/healthz": "GET, HEAD", "/livez": "GET, HEAD", "/readyz": "GET, HEAD", "/metrics": "GET, HEAD",
    }

    def test_verbs(self):
        for path, verbs in self.ROUTES.items():
            for verb in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
                with self.subTest(path, verb=verb):
                    status, headers, text = proxy.raw(verb, path)
                    if verb not in verbs.split(", "):
                        self.assertEqual((status, headers["allow"]), (405, verbs))
                        self.assertEqual(json.loads(text or '{"error":{"code":"method_not_allowed"}}')["error"]["code"], "method_not_allowed")
                    elif verb == "POST":
                        self.assertEqual((status, json.loads(text)["error"]["type"]), (400, "invalid_request_error"))
                    else:
                        self.assertEqual(status, 404 if "resp_x" in path else 200, text)
                    self.assertEqual(verb == "HEAD", not text)
                    self.assertTrue(headers["x-request-id"])

    def test_what_is_not_there(self):
        for path in ("/", "/v1", "/v1/", "/v1/embeddings", "/v2/models", "/v1/chat/completions/x", "/v1/models/", "/v1/healthz"):
            status, _, text = proxy.raw("GET", path)
            self.assertEqual((status, json.loads(text)["error"]["code"]), (404, "unknown_url"), path)
        status, _, text = proxy.raw("GET", "/v1/responses/resp_x")
        self.assertEqual((status, json.loads(text)["error"]["code"]), (404, "response_not_found"))


if __name__ == "__main__":
    unittest.main()
