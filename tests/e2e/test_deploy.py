"""The Dockerfile, the compose file and its .env.example fit together and to the program. Needs no Docker."""

import json
import pathlib
import re
import shlex
import subprocess
import unittest

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
INSTRUCTIONS = set("FROM ARG ENV WORKDIR COPY RUN USER VOLUME EXPOSE HEALTHCHECK ENTRYPOINT".split())


def dockerfile():
    """The instructions, as (word, rest)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(None, 1)) for line in lines if line.strip()]


def versions():
    return dict(shlex.split(line)[0].split("=") for line in (ROOT / "scripts/versions").read_text().splitlines()
                if line and not line.startswith("#"))


class Dockerfile(unittest.TestCase):
    def test_stages_and_sources(self):
        stages, kept = [], (ROOT / ".dockerignore").read_text().split()
        for word, rest in dockerfile():
            self.assertIn(word, INSTRUCTIONS)
            if word == "FROM":
                stages.append(rest.split(" AS ")[1] if " AS " in rest else "last")
            if word == "COPY" and rest.startswith("--from="):
                self.assertIn(rest.split()[0].removeprefix("--from="), stages[:-1])
            elif word == "COPY":
                for source in rest.split()[:-1]:
                    self.assertTrue((ROOT / source).exists(), source)
                    self.assertIn(f"!{source}", kept)
        self.assertEqual(stages, ["program", "codex", "last"])

    def test_the_pinned_codex(self):
        self.assertIn(("ARG", f"CODEX_VERSION={versions()['CODEX_VERSION']}"), dockerfile())

    def test_where_things_are(self):
        settings = dict(pair.split("=", 1) for word, rest in dockerfile() if word == "ENV" for pair in rest.split())
        self.assertEqual(settings["CODEX_HOME"], "/app/.codex-api")
        self.assertIn(("VOLUME", "/app/.codex-api"), dockerfile())
        self.assertIn(("EXPOSE", settings["PORT"]), dockerfile())
        users = [rest for word, rest in dockerfile() if word == "USER"]
        self.assertEqual(users, ["app"])

    def test_exec_forms_are_json(self):
        for word, rest in dockerfile():
            if word in ("ENTRYPOINT", "HEALTHCHECK"):
                command = json.loads(rest[rest.index("["):])
                if command[0] == "bash":
                    subprocess.run(["bash", "-n", *command[1:]], check=True)


class Compose(unittest.TestCase):
    def setUp(self):
        self.text = (ROOT / "scripts/deploy/compose.yaml").read_text()
        self.service = yaml.safe_load(self.text)["services"]["codex-completions"]

    def test_service(self):
        settings = dict(pair.split("=", 1) for word, rest in dockerfile() if word == "ENV" for pair in rest.split())
        context = (ROOT / "scripts/deploy" / self.service["build"]["context"]).resolve()
        self.assertEqual(context, ROOT)
        self.assertTrue(all(port.endswith(":" + settings["PORT"]) for port in self.service["ports"]))
        self.assertTrue(all(port.startswith("127.0.0.1:") for port in self.service["ports"]))
        self.assertEqual([volume.rsplit(":", 1)[1] for volume in self.service["volumes"]], [settings["CODEX_HOME"]])
        self.assertLessEqual({"PROXY_API_KEY", "OPENAI_API_KEY", "CODEX_MODEL"}, self.service["environment"].keys())
        check = self.service["healthcheck"]["test"]
        self.assertEqual(check[:3], ["CMD", "bash", "-c"])
        subprocess.run(["bash", "-n", "-c", check[3].replace("$$", "$")], check=True)
        self.assertIn("/readyz", check[3])

    def test_every_variable_is_explained(self):
        example = (ROOT / "scripts/deploy/.env.example").read_text()
        explained = {line.split("=")[0] for line in example.splitlines() if line and not line.startswith("#")}
        self.assertEqual(explained, set(re.findall(r"\$\{(\w+)", self.text)))

    def test_settings_exist(self):
        known = "".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))
        for name in self.service["environment"]:
            self.assertIn(f'"{name}"', known)


class Scripts(unittest.TestCase):
    def test_they_are_shell(self):
        for name in ("scripts/run", "scripts/test", "scripts/fetch-codex", "scripts/versions", "scripts/bench", ".ci/run"):
            subprocess.run(["bash", "-n", ROOT / name], check=True)

    def test_ci_calls_the_test_script_and_nothing_more(self):
        lines = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith("#")]
        self.assertEqual(lines, ['exec "$(dirname "$0")/../scripts/test"'])


if __name__ == "__main__":
    unittest.main()
