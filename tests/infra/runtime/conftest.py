"""A PostgreSQL server of the tests' own, where its programs are installed."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import pg8000.dbapi
import pytest


def _programs():
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def _as_user():
    """Return what makes a command run as an ordinary user: the server refuses to be run by root."""
    if os.getuid() != 0:
        return [], None
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], user
    return None, None


@pytest.fixture(scope="session")
def postgres_server():
    """Yield the port of a server on loopback that lives as long as the tests."""
    programs, (prefix, user) = _programs(), _as_user()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no /usr/lib/postgresql/*/bin/initdb")
    if prefix is None or (prefix and not shutil.which("setpriv")):
        pytest.skip("PostgreSQL refuses to be run by root, and there is no setpriv or no other user to run it as")
    folder = Path(tempfile.mkdtemp(prefix="ketcycle-postgres-"))  # not below tmp_path, which only its owner may enter
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    make = [*prefix, programs / "initdb", "-D", data, "-U", "ketcycle", "--auth=trust", "--no-sync", "--encoding=UTF8"]
    subprocess.run(make, check=True, capture_output=True, cwd="/")
    options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", f"unix_socket_directories={folder}"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*prefix, programs / "postgres", "-D", data, "-p", str(port), *options], stdout=log, stderr=log, cwd="/"
        )
    try:
        give_up = time.monotonic() + 60
        while True:
            try:
                pg8000.dbapi.connect("ketcycle", host="127.0.0.1", port=port, database="postgres").close()
                break
            except (pg8000.dbapi.Error, OSError):
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < give_up, "the server does not answer"
                time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(postgres_server):
    """Return the URL of an empty database."""
    name = f"ledger_{uuid.uuid4().hex[:12]}"
    connection = pg8000.dbapi.connect("ketcycle", host="127.0.0.1", port=postgres_server, database="postgres")
    connection.autocommit = True
    connection.cursor().execute(f"create database {name}")
    connection.close()
    return f"postgresql+pg8000://ketcycle@127.0.0.1:{postgres_server}/{name}"
