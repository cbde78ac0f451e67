"""How one failure looks in every API."""

import unittest

from harness import ask
from versions import LISTED

APIS = {
    "chat": lambda using, prompt, **more: using.chat.completions.create(**ask(prompt, **more)),
    "responses": lambda using, prompt, **more: using.responses.create(**{"model": LISTED, "input": prompt, **more}),
    "completions": lambda using, prompt, **more: using.completions.create(**{"model": LISTED, "prompt": prompt, **more}),
}


class Failing(unittest.TestCase):
    client = None

    def fails(self, prompt, exception, status, code, using=None, apis=tuple(APIS), **more):
        """The same error in each API, whole and streamed, before anything was said."""
        found = []
        for name in apis:
            for stream in (False, True):
                with self.subTest(prompt[:50], api=name, stream=stream):
                    with self.assertRaises(exception) as raised:
                        list(APIS[name](using or self.client, prompt, stream=stream, **more))
                    error = raised.exception
                    self.assertEqual((type(error), error.status_code, error.code), (exception, status, code))
                    self.assertTrue(error.type and error.body["message"] and error.request_id)
                    self.assertNotRegex(str(error), r"https?://|127\.0\.0\.1|/home|/tmp")
                    found.append(error)
        self.assertEqual(len(found), 2 * len(apis))
        return found
