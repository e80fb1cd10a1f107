"""Checks a built or installed pitwire on Linux, macOS and Windows, with Python's standard library.

    python3 tests/installed.py PROGRAM
        checks this program
    python tests/installed.py --msi FILE [--older OTHER]
        installs FILE on Windows, checks it, and removes it; with --older as an upgrade of OTHER

Needs openssl on the PATH. Ports are free ones, and all files are in a temporary directory; only the
start at log-on and the installer change the user's account, and both are undone.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

IS_WINDOWS = os.name == "nt"
# Seconds until a program must have reacted; a loaded machine of a CI service is slow.
PATIENCE = 60
FRAMES = 200


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", nargs="?", type=Path)
    parser.add_argument("--msi", type=Path)
    parser.add_argument("--older", type=Path)
    args = parser.parse_args()
    if args.msi:
        check_installer(args.msi.resolve(), args.older and args.older.resolve())
    else:
        check_program(args.program.resolve())
    print("all checks passed")


def check_program(program):
    check_version(program)
    run(program, "demo", "--seconds", "8", "--outage", "2:3")
    with tempfile.TemporaryDirectory(prefix="pit wall ") as folder:
        folder = Path(folder)
        check_crash(program, folder)
        check_tls(program, folder)
        check_interrupt(program, folder)
        check_autostart(program, folder)


def check_version(program):
    step("the version")
    printed = run(program, "--version").strip()
    assert re.fullmatch(r"pitwire \d+\.\d+\.\d+ \(([0-9a-f]{12}, )?[\w-]+\)", printed), printed


def check_crash(program, folder):
    step("a killed agent delivers every stored frame after its restart")
    queue = folder / "killed"
    port = free_port()
    agent = Agent(program, queue, f"http://127.0.0.1:{port}")
    agent.post(range(FRAMES))
    agent.kill()
    server = Server(program, port)
    agent = Agent(program, queue, server.url)
    wait_for(lambda: server.laps() == list(range(FRAMES)), lambda: f"{server.laps()}")
    agent.kill()
    server.stop()


def check_tls(program, folder):
    step("TLS: a trusted certificate is accepted, an unknown one is refused")
    certificate, key = make_certificate(folder)
    server = Server(program)
    proxy = TlsProxy(server.port, certificate, key)
    agent = Agent(program, folder / "distrusting", proxy.url)
    agent.post(range(FRAMES))
    wait_for(lambda: proxy.refused > 0, lambda: "the agent has not tried to connect")
    assert not server.sessions(), "the agent trusts an unknown certificate"
    agent.kill()
    agent = Agent(program, folder / "distrusting", proxy.url, f"server.ca_file={certificate}")
    wait_for(lambda: server.laps() == list(range(FRAMES)), lambda: f"{server.laps()}")
    agent.kill()
    server.stop()


def check_interrupt(program, folder):
    step("Ctrl-C stops the agent in time, with exit code 0")
    # On Windows in a console of its own: the event reaches every process of a console.
    agent = Agent(program, folder / "interrupted", f"http://127.0.0.1:{free_port()}", console=True)
    agent.post(range(FRAMES))
    if IS_WINDOWS:
        subprocess.run([sys.executable, "-c", PRESS_CTRL_C, str(agent.process.pid)], check=True)
    else:
        agent.process.send_signal(signal.SIGINT)
    assert agent.process.wait(PATIENCE) == 0, agent.process.returncode
    status = run(program, "queue", "status", "--queue", folder / "interrupted")
    assert re.search(rf"^queued +{FRAMES}$", status, re.MULTILINE), status


PRESS_CTRL_C = """
import ctypes, sys
kernel = ctypes.windll.kernel32
kernel.FreeConsole()
assert kernel.AttachConsole(int(sys.argv[1])), ctypes.WinError()
kernel.SetConsoleCtrlHandler(None, True)
assert kernel.GenerateConsoleCtrlEvent(0, 0), ctypes.WinError()
"""


def check_autostart(program, folder):
    step("start at log-on")
    env = {**os.environ, "XDG_CONFIG_HOME": str(folder / "config")}
    run(program, "autostart", "enable", env=env)
    status = run(program, "autostart", "status", env=env)
    assert "The agent starts at log-on: " in status, status
    run(program, "autostart", "disable", env=env)
    status = run(program, "autostart", "status", env=env)
    assert "does not start" in status, status


def check_installer(msi, older):
    local = Path(os.environ["LOCALAPPDATA"])
    program = local / "Programs" / "pitwire" / "pitwire.exe"
    menu = Path(os.environ["APPDATA"]) / "Microsoft/Windows/Start Menu/Programs/pitwire.url"
    configuration = local / "pitwire" / "pitwire.toml"
    assert not program.exists(), f"{program} exists: remove pitwire before you test its installer"
    step(f"installing {(older or msi).name}")
    run("msiexec", "/i", older or msi, "/qn", "/l*v", "install.log")
    for file in (program, program.with_name("pitwirew.exe"), program.with_name("hub.toml"), menu):
        assert file.is_file(), f"the installer did not create {file}"
    configuration.parent.mkdir(exist_ok=True)
    configuration.write_text('server.url = "http://127.0.0.1:9"\n')
    run(program, "autostart", "enable")
    if older:
        step(f"upgrading to {msi.name}")
        run("msiexec", "/i", msi, "/qn", "/l*v", "upgrade.log")
        assert configuration.is_file(), f"the upgrade deleted {configuration}"
    assert "pitwirew.exe" in run_key(), run_key()
    configuration.rename(configuration.with_suffix(".kept"))
    check_program(program)
    configuration.with_suffix(".kept").rename(configuration)
    run(program, "autostart", "enable")
    step(f"removing {msi.name}")
    run("msiexec", "/x", msi, "/qn", "/l*v", "remove.log")
    for file in (program, menu):
        assert not file.exists(), f"the installer left {file}"
    assert "pitwire" not in run_key(), run_key()
    assert configuration.is_file(), f"the installer deleted {configuration}"
    configuration.unlink()


def run_key():
    key = r"HKCU\Software\Microsoft\Windows\CurrentVersion\Run"
    return subprocess.run(["reg", "query", key], capture_output=True, text=True).stdout


class Agent:
    """The agent as a child process, with its log in a file beside its queue."""

    def __init__(self, program, queue, url, *settings, console=False):
        self.http, admin = free_port(), free_port()
        settings = [
            f"source.http.listen=127.0.0.1:{self.http}",
            f"metrics.listen=127.0.0.1:{admin}",
            "source.lmu.enabled=false",
            "update_rate_hz=0",
            *settings,
        ]
        command = [program, "run", "--server", url, "--queue", queue]
        for setting in settings:
            command += ["--set", setting]
        self.log = queue.with_suffix(".log")
        flags = subprocess.CREATE_NEW_CONSOLE if IS_WINDOWS and console else 0
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, creationflags=flags
            )
        started.append(self.process)
        wait_for(lambda: is_open(self.http), lambda: self.log.read_text())

    def post(self, laps):
        """Posts one frame a lap; the agent answers once it is on disk."""
        for lap in laps:
            body = json.dumps({"lap": lap, "speed": 231.4}).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.http}/v1/telemetry",
                body,
                {"content-type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                assert answer.status == 200, answer.status

    def kill(self):
        self.process.kill()
        self.process.wait(PATIENCE)


class Server:
    """`pitwire serve` as a child process."""

    def __init__(self, program, port=0):
        command = [program, "serve", "--listen", f"127.0.0.1:{port}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(self.process)
        self.url = self.process.stdout.readline().split()[-1]
        self.port = int(self.url.rsplit(":", 1)[1])

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE) as answer:
            return json.load(answer)

    def sessions(self):
        return [session["session_id"] for session in self.get("/api/sessions")]

    def laps(self):
        frames = [frame for session in self.sessions()
                  for frame in self.get(f"/api/sessions/{session}/frames")]
        return [int(frame["telemetry"]["lap"]) for frame in frames]

    def stop(self):
        self.process.kill()
        self.process.wait(PATIENCE)


class TlsProxy:
    """Terminates TLS in front of a port of this machine."""

    def __init__(self, port, certificate, key):
        self.port = port
        self.refused = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        try:
            client.settimeout(PATIENCE)
            client = self.context.wrap_socket(client, server_side=True)
            # A client that refuses the certificate may say so only now, or close the connection.
            first = client.recv(65536)
        except OSError:
            first = b""
        if not first:
            self.refused += 1
            return
        client.settimeout(None)
        server = socket.create_connection(("127.0.0.1", self.port))
        server.sendall(first)
        threading.Thread(target=copy, args=(server, client), daemon=True).start()
        copy(client, server)


def copy(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def make_certificate(folder):
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
        "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate,
        env={**os.environ, "MSYS_NO_PATHCONV": "1"})
    return certificate, key


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def is_open(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def wait_for(condition, reason):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {PATIENCE} s: {reason()}")
        time.sleep(0.2)


def run(program, *args, env=None):
    command = [shutil.which(str(program)) or str(program), *map(str, args)]
    print(f"    {' '.join(command)}", flush=True)
    done = subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace", timeout=600,
    )
    assert done.returncode == 0, f"{command}: exit code {done.returncode}: {done.stdout}"
    return done.stdout


def step(text):
    print(f"==> {text}", flush=True)


# Processes that must not outlive this one.
started = []

if __name__ == "__main__":
    try:
        main()
    finally:
        for process in started:
            process.kill()
