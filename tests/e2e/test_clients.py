"""Requests in the forms of well-known clients (tests/e2e/clients): each is answered, and the model gets its words."""

import json
import unittest

import harness
from harness import conversation, events
from versions import LISTED


def setUpModule():
    global model, proxy
    model = harness.Model()
    proxy = harness.Proxy(model)


def tearDownModule():
    proxy.close()
    model.kill()


def words(route, body):
    """What the client says, in its order: (role, text) of each message that has text."""
    if route == "/v1/completions":
        return [("user", body["prompt"])]
    messages = body.get("messages", body.get("input"))
    if isinstance(messages, str):
        return [("user", messages)]
    found = []
    for message in messages:
        role = {"system": "developer", "function": "tool"}.get(message.get("role"), message.get("role"))
        content = message.get("content")
        # Beside calls, no text is no message.
        content = [] if content is None or content == "" and message.get("tool_calls") else content
        parts = [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]
        if role == "tool" or message.get("type") == "function_call_output":
            found.append(("output", "".join(parts) or message.get("output", "")))
        elif role and parts:
            found.append((role, *parts))
    return found


def heard(body):
    """The same of what the model got."""
    found = []
    for role, *rest in conversation(body):
        if role == "output":
            found.append(("output", rest[1]))
        elif role not in ("call", "reasoning") and any(isinstance(part, str) for part in rest):
            found.append((role, *(part for part in rest if isinstance(part, str))))
    return found


class Clients(unittest.TestCase):
    def test_all(self):
        files = sorted((harness.ROOT / "tests/e2e/clients").glob("*.json"))
        self.assertGreater(len(files), 15)
        for file in files:
            recorded = json.loads(file.read_text())
            for number, request in enumerate(recorded["requests"]):
                with self.subTest(recorded["client"], number=number):
                    body, route = {**request["body"], "model": LISTED}, request["route"]
                    model.reset()
                    status, headers, text = proxy.post(body, route, request.get("headers"))
                    self.assertEqual(status, 200, text)
                    # Lines of the proxy come last.
                    said, got = words(route, body), heard(model.turns()[0])
                    if body.get("instructions"):
                        said.insert(0, ("developer", body["instructions"]))
                    self.assertEqual(got[:len(said)], said)
                    self.assertTrue(all(line[0] == "developer" and line[1].startswith("Answer ") for line in got[len(said):]), got)
                    if body.get("stream"):
                        self.assertTrue(headers["content-type"].startswith("text/event-stream"))
                        self.assertTrue(text.endswith("data: [DONE]\n\n") or '"type":"response.completed"' in text, text[-300:])
                        self.assertNotIn('"error":{', "".join(events(text)))
                    else:
                        self.assertIn(json.loads(text)["object"], ("chat.completion", "response", "text_completion"))


if __name__ == "__main__":
    unittest.main()
