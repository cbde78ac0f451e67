"""Which provider, key and model are used, what is said when they are missing, and where no secret may appear."""

import json
import pathlib
import shutil
import stat
import subprocess
import tempfile
import time
import unittest

import harness
from harness import MOCK_KEY, ask, eventually
from versions import LISTED, VERSION

TOKEN = "secret-of-the-provider"


def setUpModule():
    global model
    model = harness.Model()


def tearDownModule():
    model.kill()


def where(secret, directory):
    """The files that hold it."""
    found = subprocess.run(["grep", "-rla", secret, directory], stdout=subprocess.PIPE, text=True).stdout
    return [pathlib.Path(path) for path in found.split()]


class Base(unittest.TestCase):
    def setUp(self):
        model.reset()

    def proxy(self, config="", env=None, files=None, wait=True):
        proxy = harness.Proxy(model, env, {"config.toml": config, **(files or {})} if config else files or {}, wait=wait)
        self.addCleanup(proxy.close)
        return proxy

    def sent(self, proxy, body=None):
        """The request that the model gets for a completion. Where codex can have a token, it asks for the models too."""
        status, _, text = proxy.post(body or ask("hello"))
        self.assertEqual(status, 200, text)
        (request,) = [request for request in model.requests() if not request["path"].startswith("/v1/models?")]
        return request

    def secret_is_kept(self, proxy, secret, files=()):
        """Not in an argument, a log or a file but those."""
        family = harness.descendants(proxy.process.pid)
        self.assertTrue(family)
        for seen in family:
            self.assertNotIn(secret, " ".join(seen.arguments()))
        self.assertNotIn(secret, proxy.process.stderr())
        for path in where(secret, proxy.home):
            self.assertIn(path.name, files)
            if path.parent != proxy.home:
                self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertEqual(proxy.stop(), 0)
        self.assertEqual([path for path in where(secret, proxy.home) if path.parent != proxy.home], [])


class Custom(Base):
    """Providers of config.toml."""

    def config(self, *lines):
        return "\n".join(['model_provider = "own"', "[model_providers.own]", 'name = "Own"', f'base_url = "{model.url}"',
                          'wire_api = "responses"', *lines]) + "\n"

    def test_headers_query_and_key_of_the_environment(self):
        config = self.config('env_key = "OWN_KEY"', 'http_headers = { "x-own" = "a \\"b\\"", "x.dot" = "c" }',
                             'env_http_headers = { "x-env" = "OWN_HEADER" }', 'query_params = { "api-version" = "1 2" }')
        request = self.sent(self.proxy(config, {"OWN_KEY": TOKEN, "OWN_HEADER": "from-env"}))
        headers = request["headers"]
        self.assertEqual(headers["authorization"], f"Bearer {TOKEN}")
        self.assertEqual((headers["x-own"], headers["x.dot"], headers["x-env"]), ('a "b"', "c", "from-env"))
        self.assertIn(request["path"], ("/v1/responses?api-version=1%202", "/v1/responses?api-version=1+2"))

    def test_a_token_in_the_configuration(self):
        proxy = self.proxy(self.config(f'experimental_bearer_token = "{TOKEN}"'))
        self.assertEqual(self.sent(proxy)["headers"]["authorization"], f"Bearer {TOKEN}")
        self.secret_is_kept(proxy, TOKEN, ["config.toml"])

    def test_a_program_that_prints_the_token(self):
        place = pathlib.Path(tempfile.mkdtemp(prefix="e2e-token-"))
        self.addCleanup(shutil.rmtree, place)
        program = place / "token"
        program.write_text(f"#!/bin/sh\necho {TOKEN}-$1\n")
        program.chmod(0o755)
        proxy = self.proxy(self.config("[model_providers.own.auth]", f'command = "{program}"', 'args = ["fresh"]'))
        self.assertEqual(self.sent(proxy)["headers"]["authorization"], f"Bearer {TOKEN}-fresh")
        self.secret_is_kept(proxy, TOKEN)

    def test_a_program_beside_the_configuration(self):
        place = pathlib.Path(tempfile.mkdtemp(prefix="e2e-token-"))
        self.addCleanup(shutil.rmtree, place)
        program = place / "token"
        program.write_text(f"#!/bin/sh\necho {TOKEN}-$(basename $PWD)\n")
        program.chmod(0o755)
        config = self.config("[model_providers.own.auth]", 'command = "./token"', f'cwd = "{place}"')
        self.assertEqual(self.sent(self.proxy(config))["headers"]["authorization"], f"Bearer {TOKEN}-{place.name}")

    def test_another_provider_is_forced(self):
        other = '[model_providers.other]\nname = "Other"\nbase_url = "http://127.0.0.1:1/v1"\nwire_api = "responses"\n'
        config = 'model_provider = "other"\n' + self.config('env_key = "MOCK_KEY"').split("\n", 1)[1] + other
        request = self.sent(self.proxy(config, {"CODEX_FORCE_PROVIDER": "own"}))
        self.assertEqual(request["headers"]["authorization"], f"Bearer {MOCK_KEY}")

    def test_a_provider_that_does_not_exist_is_named(self):
        proxy = self.proxy(self.config('env_key = "MOCK_KEY"'), {"CODEX_FORCE_PROVIDER": "missing", "PROXY_QUEUE_MS": "100"}, wait=False)
        eventually("it says so", lambda: "missing" in proxy.get("/readyz")[1])
        status, _, text = proxy.post(ask("hello"))
        self.assertEqual((status, json.loads(text)["error"]["code"]), (503, "backend_unavailable"))
        self.assertIn("missing", text)
        self.assertNotIn(str(proxy.home), text)

    def test_models(self):
        config = 'model = "of-the-configuration"\n' + self.config('env_key = "MOCK_KEY"')
        proxy = self.proxy(config)
        self.assertEqual(self.sent(proxy, {"messages": ask("hello")["messages"]})["body"]["model"], "of-the-configuration")
        model.reset()
        self.assertEqual(self.sent(proxy, ask("hello", model="any-other"))["body"]["model"], "any-other")
        model.reset()
        forced = self.proxy(config, {"CODEX_MODEL": LISTED})
        self.assertEqual(self.sent(forced, {"messages": ask("hello")["messages"]})["body"]["model"], LISTED)

    def test_a_key_that_is_missing(self):
        proxy = self.proxy(self.config('env_key = "NOBODY_SET_THIS"'), wait=False)
        eventually("it says so", lambda: "NOBODY_SET_THIS" in proxy.get("/readyz")[1])
        self.assertEqual(proxy.get("/readyz")[0], 503)
        status, headers, text = proxy.post(ask("hello"))
        self.assertEqual((status, json.loads(text)["error"]["code"]), (401, "upstream_unauthorized"))
        self.assertIn("NOBODY_SET_THIS", text)
        self.assertIn("start", text)
        self.assertEqual(model.requests(), [])


class Gateway(Base):
    """The built-in provider at another address."""

    def timed(self, proxy):
        times = []
        for _ in range(3):
            began = time.monotonic()
            self.assertEqual(proxy.post(ask("hello"))[0], 200)
            times.append(time.monotonic() - began)
        return times

    def gateway(self, env=None, files=None):
        proxy = self.proxy(f'openai_base_url = "{model.url}"\n', env, files)
        times = self.timed(proxy)
        # WebSocket is not tried: a gateway without it would cost seconds.
        self.assertLess(max(times), 2.0)
        turns = [request for request in model.requests() if request["path"] == "/v1/responses"]
        self.assertEqual([request["method"] for request in turns], ["POST"] * 3)
        print(f"\n  {VERSION}: {min(times) * 1000:.0f} ms for a completion over openai_base_url")
        return proxy, {request["headers"]["authorization"] for request in turns}

    def test_with_the_key_of_a_login(self):
        proxy, keys = self.gateway(files={"auth.json": json.dumps({"OPENAI_API_KEY": TOKEN})})
        self.assertEqual(keys, {f"Bearer {TOKEN}"})
        # Linked, not copied.
        self.secret_is_kept(proxy, TOKEN, ["auth.json"])

    def test_with_the_key_of_the_environment(self):
        proxy, keys = self.gateway({"OPENAI_API_KEY": TOKEN})
        self.assertEqual(keys, {f"Bearer {TOKEN}"})
        self.secret_is_kept(proxy, TOKEN)

    def test_a_login_comes_before_the_key_of_the_environment(self):
        _, keys = self.gateway({"OPENAI_API_KEY": "sk-other"}, {"auth.json": json.dumps({"OPENAI_API_KEY": TOKEN})})
        self.assertEqual(keys, {f"Bearer {TOKEN}"})

    def test_no_login(self):
        proxy = self.proxy(f'openai_base_url = "{model.url}"\n', wait=False)
        eventually("it says so", lambda: "codex login" in proxy.get("/readyz")[1])
        self.assertEqual(proxy.get("/readyz")[0], 503)
        status, _, text = proxy.post(ask("hello"))
        self.assertEqual((status, json.loads(text)["error"]["code"]), (401, "upstream_unauthorized"))
        self.assertIn("codex login", text)
        self.assertEqual(model.requests(), [])


class Odd(Base):
    def test_a_home_with_an_odd_name(self):
        place = pathlib.Path(tempfile.mkdtemp(prefix="e2e-odd-"))
        self.addCleanup(shutil.rmtree, place)
        home = place / "a \"quoted\" 'home' = [ü] \\ # x"
        home.mkdir()
        proxy = harness.Proxy(model, None, {"config.toml": model.config()}, home)
        self.addCleanup(proxy.close)
        self.sent(proxy)


if __name__ == "__main__":
    unittest.main()
