"""Awkward and large texts arrive unchanged."""

import unittest

import harness
from harness import ask, conversation
from versions import told

# The same as in tests/scripted-model/answer.rs.
UNICODE = ("line\u2028para\u2029next\x85 👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \0 \x1f \ufeff 𝄞 \uffff \\u0000 \"quoted\" </script> "
           "data: x\n\ndata: [DONE]\r\n")


def filler(size):
    lines = (f"{line:010} the quick brown fox jumps over the lazy dog, again\n" for line in range(size // 60 + 1))
    return "".join(lines)[:size]


def setUpModule():
    global model, proxy, client
    model = harness.Model()
    proxy = harness.Proxy(model)
    client = proxy.client()


def tearDownModule():
    client.close()
    proxy.close()
    model.kill()


class Text(unittest.TestCase):
    def whole(self, prompt):
        return client.chat.completions.create(**ask(prompt)).choices[0].message.content

    def streamed(self, prompt):
        stream = client.chat.completions.create(**ask(prompt), stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    def test_unicode_in_answers(self):
        self.assertEqual(self.whole("[[unicode]]"), UNICODE)
        self.assertEqual(self.streamed("[[unicode]]"), UNICODE)

    def test_unicode_in_prompts(self):
        model.reset()
        self.whole(UNICODE)
        self.assertEqual(conversation(model.turns()[0]), told([("user", UNICODE)]))

    def test_a_megabyte_in_one_delta(self):
        self.assertTrue(self.streamed("[[big-delta 1000000]]") == filler(1_000_000))
        self.assertTrue(self.whole("[[big-delta 1000000]]") == filler(1_000_000))

    def test_four_megabytes_whole(self):
        self.assertTrue(self.whole("[[bytes 4000000]]") == filler(4_000_000))

    def test_a_large_prompt(self):
        model.reset()
        text = filler(1_000_000)
        self.whole(text + "[[say ok]]")
        self.assertTrue(conversation(model.turns()[0]) == told([("user", text + "[[say ok]]")]))


if __name__ == "__main__":
    unittest.main()
