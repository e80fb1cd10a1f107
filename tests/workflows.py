"""Runs each step of the workflows that Linux executes, as it is written; see workflows.sh."""

import base64
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

WORKFLOWS = Path(".github/workflows")

# Steps that are not run here, by the name of the workflow and of the step.
EXCEPTED = {
    ("ci", "Run all checks"): "runs this test",
    ("ci", "Check the dependencies"): "downloads the advisories, and builds two tools first",
    ("release", "Check the tag"): "fails until the changelog has a date; tests/it/release.rs",
    ("release", "Create the release"): "needs the account",
    ("release", "Install, upgrade and remove the package"): "tests/packages.sh ran this script",
    ("release", "Publish the image"): "needs the account",
}

PASSWORD = "a password with spaces"


def main():
    steps = list(linux_steps())
    unknown = set(EXCEPTED) - {(workflow, name) for workflow, name, *_ in steps}
    assert not unknown, f"EXCEPTED names steps that do not exist: {unknown}"
    with tempfile.TemporaryDirectory() as folder:
        values = expressions(Path(folder))
        done = set()
        for workflow, name, script, env in steps:
            if reason := EXCEPTED.get((workflow, name)):
                print(f"--- {workflow}: {name}: not run here: {reason}", flush=True)
            # Two workflows and two processors share some steps.
            elif (script, str(env)) not in done:
                done.add((script, str(env)))
                run(workflow, name, script, {key: fill(text, values) for key, text in env.items()})
        check_signatures(Path(folder))
    print(f"{len(done)} steps passed")


def linux_steps():
    for file in sorted(WORKFLOWS.glob("*.yml")):
        workflow = yaml.safe_load(file.read_text())
        for job in workflow["jobs"].values():
            runner = job["runs-on"]
            if "ubuntu" not in runner and runner != "${{ matrix.runner }}":
                continue
            for step in job["steps"]:
                if "run" in step:
                    env = {**workflow.get("env", {}), **job.get("env", {}), **step.get("env", {})}
                    yield workflow["name"], step["name"], step["run"], env


def expressions(folder):
    """What the expressions of the workflows are worth here: a certificate of our own, no account."""
    return {
        "secrets.WINDOWS_CERTIFICATE": make_certificate(folder),
        "secrets.WINDOWS_CERTIFICATE_PASSWORD": PASSWORD,
        "vars.WINDOWS_TIMESTAMP_URL": "",
    }


def make_certificate(folder):
    subject = ["-subj", "/CN=pitwire test", "-addext", "extendedKeyUsage=codeSigning"]
    openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject,
            "-keyout", "key.pem", "-out", "certificate.pem")
    openssl(folder, "pkcs12", "-export", "-inkey", "key.pem", "-in", "certificate.pem",
            "-out", "both.p12", "-passout", f"pass:{PASSWORD}")
    return base64.b64encode((folder / "both.p12").read_bytes()).decode()


def openssl(folder, *args):
    subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)


def fill(text, values):
    def value(match):
        assert match[1] in values, f"${{{{ {match[1]} }}}} has no value here: add it to workflows.py"
        return values[match[1]]

    return re.sub(r"\$\{\{ ([^ }]+) \}\}", value, str(text))


def run(workflow, name, script, env):
    assert "${{" not in script, f"{workflow}: {name}: pass expressions through env"
    print(f"\n==> {workflow}: {name}", flush=True)
    began = time.monotonic()
    tag = "v" + re.search(r'^version = "(.*)"', Path("Cargo.toml").read_text(), re.MULTILINE)[1]
    variables = {
        "GITHUB_REF_NAME": tag,
        "GITHUB_REPOSITORY": "team/pitwire",
        "GITHUB_SERVER_URL": "https://git.example.org",
    }
    # The shell of the runners.
    subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        env={**os.environ, **variables, **env}, stdin=subprocess.DEVNULL, check=True,
    )
    print(f"--- {time.monotonic() - began:.0f} s", flush=True)


def check_signatures(folder):
    for file in Path("target/packages").glob("*.msi"):
        subprocess.run(
            ["osslsigncode", "verify", "-CAfile", folder / "certificate.pem", "-in", file],
            check=True, stdout=subprocess.DEVNULL,
        )


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")
