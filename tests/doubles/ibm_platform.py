"""A double of the vendor's cloud platform: the REST protocol that the unmodified runtime client speaks, on loopback.

    python tests/doubles/ibm_platform.py [--port 8765] [--devices lagos,guadalupe,torino] [--script '{"noisy": true}']

prints what a shell needs to use it, and serves until it is stopped. `GET /control` says what was asked and made,
`PUT /control` with a script starts afresh, `PATCH /control` changes parts of the script, `POST /control/free` lets
stuck jobs end. Nothing in ketcycle knows it: it is reached by the settings and variables of a private deployment.

Built from the client's own source; fidelity to the real service ends there.
"""

import argparse
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jwt

sys.path.insert(0, str(Path(__file__).parent))
from ibm_jobs import Fault, Platform, Script

CRN = "crn:v1:bluemix:public:quantum-computing:us-east:a/double:00000000-0000-0000-0000-000000000000::"
API = "/api/v1"
DEVICES = ("lagos", "guadalupe", "torino")

ROUTES = [
    ("token", "POST", r"/identity/token"),
    ("search", "POST", r"/v3/resources/search"),
    ("catalog", "GET", r"/open-plan"),
    ("backends", "GET", rf"{API}/backends"),
    ("configuration", "GET", rf"{API}/backends/([^/]+)/configuration"),
    ("properties", "GET", rf"{API}/backends/([^/]+)/properties"),
    ("device", "GET", rf"{API}/backends/([^/]+)/status"),
    ("usage", "GET", rf"{API}/instances/usage"),
    ("submit", "POST", rf"{API}/jobs"),
    ("jobs", "GET", rf"{API}/jobs"),
    ("job", "GET", rf"{API}/jobs/([^/]+)"),
    ("delete", "DELETE", rf"{API}/jobs/([^/]+)"),
    ("results", "GET", rf"{API}/jobs/([^/]+)/results"),
    ("logs", "GET", rf"{API}/jobs/([^/]+)/logs"),
    ("metrics", "GET", rf"{API}/jobs/([^/]+)/metrics"),
    ("cancel", "POST", rf"{API}/jobs/([^/]+)/cancel"),
    ("tags", "PUT", rf"{API}/jobs/([^/]+)/tags"),
    ("session", "POST", rf"{API}/sessions"),
    ("session_get", "GET", rf"{API}/sessions/([^/]+)"),
    ("session_patch", "PATCH", rf"{API}/sessions/([^/]+)"),
    ("session_close", "DELETE", rf"{API}/sessions/([^/]+)/close"),
    ("control_get", "GET", r"/control"),
    ("control_put", "PUT", r"/control"),
    ("control_patch", "PATCH", r"/control"),
    ("control_free", "POST", r"/control/free"),
]
OPEN = ("token", "control_get", "control_put", "control_patch", "control_free")


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status, message, code=1000, **headers):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are sent apart, which would cost 40 ms each time
    platform: Platform

    def log_message(self, *_):
        """Say nothing; the platform keeps its own list."""

    def _serve(self):
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for name, method, pattern in ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, address.path)):
                self._answer(name, match.groups(), raw)
                return
        self._send(404, {"errors": [{"message": f"no such address: {self.command} {address.path}"}]})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _answer(self, name, arguments, raw):
        control = name.startswith("control")
        fault = None if control else self.platform.fault(name)
        entry = {"route": name, "at": time.time(), "arguments": list(arguments), "fault": fault and fault.kind}
        if not control:
            with self.platform.lock:
                self.platform.requests.append(entry)
        try:
            if fault:
                self._before(fault)
            if name not in OPEN:
                self._authorise()
            self.body = raw
            if fault and fault.kind == "oldest" and arguments:
                arguments = [next(iter(self.platform.jobs))]
            self.copies = 2 if fault and fault.kind == "twice" else 1
            status, content = getattr(self, f"on_{name}")(*arguments)
        except Refused as refusal:
            entry["status"] = refusal.status
            errors = {"errors": [{"message": refusal.message, "code": refusal.code}]}
            self._send(refusal.status, errors, **refusal.headers)
            return
        except ConnectionAbortedError:
            entry["status"] = "dropped"
            self._drop()
            return
        if name == "submit":
            entry["job"], entry["tags"] = content["id"], self.platform.jobs[content["id"]].tags
        entry["status"] = status
        if fault and fault.kind.endswith("-after"):
            entry["status"] = f"{status}, answer lost"
            if fault.kind == "drop-after":
                self._drop()
            else:
                self._send(int(fault.kind[:3]), {"errors": [{"message": "internal error", "code": 1001}]})
            return
        if fault and fault.kind == "oldest" and name == "submit":
            content = {**content, "id": next(iter(self.platform.jobs))}
        if fault and fault.kind == "untagged":
            content = {**content, "jobs": [{k: v for k, v in job.items() if k != "tags"} for job in content["jobs"]]}
        if fault and fault.kind in ("page", "empty", "answer"):
            page = "<html><body>The proxy is out of breath.</body></html>"
            content = {"page": page, "empty": "", "answer": fault.body}[fault.kind]
        self._send(status, content, cut=bool(fault and fault.kind == "truncate"))

    def _before(self, fault):
        if fault.kind == "slow":
            time.sleep(fault.seconds)
        elif fault.kind == "drop":
            raise ConnectionAbortedError
        elif fault.kind == "echo":
            raise Refused(400, f"refused: {dict(self.headers)}")
        elif fault.kind == "429":
            raise Refused(429, "too many requests", **{"Retry-After": str(int(fault.seconds))})
        elif fault.kind.isdigit():
            raise Refused(int(fault.kind), "an error by script")

    def _authorise(self):
        given = self.headers.get("Authorization", "")
        try:
            # The client's clock may differ from the platform's.
            jwt.decode(given.removeprefix("Bearer "), "secret of the double, long enough for it", ["HS256"], leeway=1e9)
        except jwt.InvalidTokenError:
            raise Refused(401, "the access token is not valid") from None

    def _drop(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, status, content=None, *, cut=False, **headers):
        data = b"" if content is None else (content if isinstance(content, str) else json.dumps(content)).encode()
        data = data[: len(data) // 2] if cut else data
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    def on_token(self):
        form = parse_qs(self.body.decode())
        if form.get("apikey", [""])[0] != self.platform.script.api_key:
            raise Refused(400, "BXNIM0415E: Provided API key could not be found.")
        now = int(self.platform.now())
        claims = {"iat": now, "exp": now + 3600, "account": {"bss": "double"}}
        token = jwt.encode(claims, "secret of the double, long enough for it", "HS256")
        times = {"expires_in": 3600, "expiration": now + 3600}
        return 200, {"access_token": token, "refresh_token": "none", "token_type": "Bearer", **times}

    def on_search(self):
        item = {
            "crn": CRN,
            "name": "double",
            "tags": [],
            "service_plan_unique_id": "open-plan",
            "doc": {"extensions": {"backends": "all"}},
        }
        return 200, {"items": [item], "limit": 100}

    def on_catalog(self):
        return 200, {"overview_ui": {"en": {"display_name": "Open"}}, "metadata": {"pricing": {"type": "free"}}}

    def _device(self, name):
        if name.replace("mock_", "ibm_") not in self.platform.devices:
            raise Refused(404, f"Backend {name} not found")
        from ibm_programs import device_files

        return device_files(name.replace("mock_", "ibm_"))

    def on_backends(self):
        waiting = sum(job.state == "Queued" for job in self.platform.jobs.values())
        devices = []
        for name in self.platform.devices:
            qubits = self._device(name)[0]["n_qubits"]
            status = {"name": "offline" if self.platform.script.maintenance else "online"}
            devices.append({"name": name, "status": status, "queue_length": waiting, "qubits": qubits})
            mock = {**devices[-1], "name": name.replace("ibm_", "mock_"), "class": "mock"}
            devices += [mock] if "include_mocks" in self.query else []
        return 200, {"devices": devices}

    def on_configuration(self, name):
        return 200, {**self._device(name)[0], "backend_name": name}

    def on_properties(self, name):
        return 200, {**self._device(name)[1], "last_update_date": self.platform.script.calibration}

    def on_device(self, name):
        version = self._device(name)[0]["backend_version"]
        down = self.platform.script.maintenance
        status = {"state": not down, "status": "maintenance" if down else "active", "length_queue": 0}
        return 200, {**status, "backend_version": version}

    def on_usage(self):
        limit, spent = self.platform.script.limit_s, self.platform.spent_s()
        facts = {"usage_consumed_seconds": spent, "usage_limit_seconds": limit, "usage_limit_reached": spent >= limit}
        return 200, {"instance_id": CRN, "plan_id": "open-plan", **facts}

    def on_submit(self):
        body = json.loads(self.body)
        if self.platform.script.maintenance:
            raise Refused(503, "the service is in maintenance")
        self._device(body["backend"])
        if body["program_id"] != "executor":
            raise Refused(404, f"program {body['program_id']} is not offered")
        if self.platform.pending() >= self.platform.script.pending_limit:
            raise Refused(400, "the plan allows no more pending jobs", 3458)
        job = self.platform.create(body, self.copies)
        return 200, {"id": job.id, "backend": job.backend}

    def _job(self, job_id):
        if job_id not in self.platform.jobs:
            raise Refused(404, f"Job {job_id} not found")
        return self.platform.jobs[job_id]

    def on_job(self, job_id):
        job = self._job(job_id)
        self.platform.poll(job)
        return 200, self.platform.describe(job)

    def on_jobs(self):
        found = self.platform.listed(self.query.get("tags", []), "include_mocks" in self.query)
        if self.query.get("sort") != ["ASC"]:
            found.reverse()
        offset = int(self.query.get("offset", ["0"])[0])
        limit = min(int(self.query.get("limit", ["20"])[0]), self.platform.script.page)
        page = [self.platform.describe(job, estimate=False) for job in found[offset : offset + limit]]
        return 200, {"jobs": page, "count": len(found), "limit": limit, "offset": offset}

    def on_delete(self, job_id):
        self._job(job_id)
        del self.platform.jobs[job_id]
        return 204, None

    def on_results(self, job_id):
        job = self._job(job_id)
        return (200, job.result or job.reason or "") if job.state != "Queued" else (204, None)

    def on_logs(self, job_id):
        return 200, self._job(job_id).reason or ""

    def on_metrics(self, job_id):
        return 200, self.platform.metrics(self._job(job_id))

    def on_cancel(self, job_id):
        if not self.platform.cancel(self._job(job_id)):
            raise Refused(409, "the job is over")
        return 204, None

    def on_tags(self, job_id):
        self._job(job_id).tags = json.loads(self.body)["tags"]
        return 204, None

    def on_session(self):
        body = json.loads(self.body)
        session_id = f"session{len(self.platform.sessions)}"
        session = {"id": session_id, "mode": body.get("mode"), "backend_name": body.get("backend")}
        self.platform.sessions[session_id] = {**session, "state": "open", "accepting_jobs": True}
        return 200, self.platform.sessions[session_id]

    def _session(self, session_id):
        if session_id not in self.platform.sessions:
            raise Refused(404, f"session {session_id} not found")
        return self.platform.sessions[session_id]

    def on_session_get(self, session_id):
        return 200, self._session(session_id)

    def on_session_patch(self, session_id):
        self._session(session_id).update(json.loads(self.body))
        return 204, None

    def on_session_close(self, session_id):
        self._session(session_id).update(state="closed", accepting_jobs=False)
        return 204, None

    def on_control_get(self):
        return 200, self.platform.facts() | {"sessions": self.platform.sessions}

    def on_control_put(self):
        self.platform.reset(Script(**json.loads(self.body or b"{}")))
        return 204, None

    def on_control_patch(self):
        with self.platform.lock:
            for name, value in json.loads(self.body).items():
                setattr(self.platform.script, name, [Fault(**f) for f in value] if name == "faults" else value)
        return 204, None

    def on_control_free(self):
        self.platform.stuck_forever = False
        return 204, None


def serve(port=0, devices=DEVICES, script=None):
    """Serve from a thread of this process; return the server, whose `server_address` says where."""
    import ibm_programs  # noqa: F401  (seconds; paid before the first request)

    handler = type("Bound", (Handler,), {"platform": Platform([f"ibm_{name}" for name in devices], script)})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Double:
    """The platform in a process of its own, and the hands of a test on it."""

    def __init__(self, devices=DEVICES):
        command = [sys.executable, __file__, "--port", "0", "--devices", ",".join(devices)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = json.loads(self._process.stdout.readline())["url"]

    def __getstate__(self):
        """Let another process use it; only this one can stop it."""
        return {"url": self.url}

    def environment(self, token=None):
        """Variables that lead the product there."""
        return environment(self.url, token or Script.api_key)

    def reset(self, **script):
        """Forget all jobs and start with a new script."""
        self._control("PUT", script)

    def change(self, **script):
        """Change parts of the script."""
        self._control("PATCH", script)

    def free(self):
        """Let stuck jobs end."""
        self._control("POST", {}, "/free")

    @property
    def facts(self):
        """What was asked, what was made."""
        return self._control("GET")

    @property
    def jobs(self):
        """The jobs that were made, oldest first."""
        return self.facts["jobs"]

    def asked(self, route):
        """How often a route was asked."""
        return sum(request["route"] == route for request in self.facts["requests"])

    def stop(self):
        """End the process."""
        self._process.terminate()
        self._process.wait(10)
        self._process.stdout.close()

    def _control(self, method, body=None, path=""):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/control{path}", data, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            text = answer.read()
        return json.loads(text) if text else None


def environment(url, token):
    """Variables that lead the product to a platform at an address: its own settings, and the vendor's account."""
    return {
        "KETCYCLE_IBM_API_URL": url + API,
        "KETCYCLE_IBM_IDENTITY_URL": url,
        "KETCYCLE_IBM_SEARCH_URL": url,
        "QISKIT_IBM_TOKEN": token,
        "QISKIT_IBM_INSTANCE": CRN,
    }


def main():
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--devices", default=",".join(DEVICES), help="snapshots of the runtime client, by short name")
    parser.add_argument("--script", default="{}", help="JSON, see ibm_jobs.Script")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    server = serve(options.port, options.devices.split(","), Script(**json.loads(options.script)))
    url = f"http://127.0.0.1:{server.server_address[1]}"
    print(json.dumps({"url": url}), flush=True)
    for name, value in environment(url, server.RequestHandlerClass.platform.script.api_key).items():
        print(f"export {name}='{value}'", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


if __name__ == "__main__":
    main()
