"""An emulator of AWS, a process of its own, behind a proxy that keeps what was sent, and can answer in its stead."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import socket
import subprocess
import threading
import time
import urllib.request

import pytest

ROLE = "arn:aws:iam::123456789012:role/states"
REGION = "eu-central-1"


MAY_SKIP = os.environ.get("FLOWSTORE_TEST_AWS") != "1"  # read here, since tests see none of these variables


def spare(reason):
    """Skip a test, unless $FLOWSTORE_TEST_AWS is 1."""
    if MAY_SKIP:
        pytest.skip(reason)
    pytest.fail(reason)


class Emulator:
    """moto's server, with state machines that really run.

    `sent` collects each request, as text: its path, headers and body. A function in `answers` may answer a request in
    its place: it gets the name of the call (`SQS.ReceiveMessage`) and the body, and returns a status and an error, or
    `None`.
    """

    def __init__(self, program, folder):
        self.sent = []
        self.received = []
        self.answers = []
        self._clients = {}
        self._port = _free_port()  # which the emulator has to know, since it calls itself
        with (folder / "moto.log").open("wb") as log:
            self.process = subprocess.Popen(
                [program, "-H", "127.0.0.1", "-p", str(self._port)], stdout=log, stderr=log, start_new_session=True,
                env={name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))},
            )  # fmt: skip
        self._wait(folder / "moto.log")
        self._proxy = _Proxy(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._proxy.server_port}"
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        self.reset()

    def _wait(self, log):
        deadline = time.monotonic() + 60
        while f"http://127.0.0.1:{self._port}" not in log.read_text():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)

    def reset(self):
        """Forget everything."""
        self._post("reset", {})
        self._post("config", {"stepfunctions": {"execute_state_machine": True}})
        self.sent.clear()
        self.received.clear()
        self.answers.clear()

    def _post(self, what, body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/moto-api/{what}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()

    def close(self):
        for client in self._clients.values():
            client.close()
        self._proxy.shutdown()
        self._proxy.server_close()
        self.process.kill()
        self.process.wait()

    @property
    def environment(self):
        """The environment variables that boto3 reads."""
        return {
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url, "AWS_CONFIG_FILE": "/nowhere", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
            "AWS_EC2_METADATA_DISABLED": "true", "FLOWSTORE_SFN_ROLE": ROLE,
        }  # fmt: skip

    def client(self, service):
        """A client of boto3's own, past the proxy; closed with this."""
        import boto3

        if service not in self._clients:
            self._clients[service] = boto3.client(
                service, region_name=REGION, endpoint_url=f"http://127.0.0.1:{self._port}", aws_access_key_id="test",
                aws_secret_access_key="test",
            )  # fmt: skip
        return self._clients[service]

    def calls(self, call):
        """The arguments of each call that was made, such as States.SendTaskFailure."""
        target = call.replace("States", "AWSStepFunctions").replace("SQS", "AmazonSQS")
        texts = [text for text in self.sent if f"X-Amz-Target: {target}\n" in text]
        return [json.loads(text.partition("\n\n")[2]) for text in texts]

    def answer(self, call, status, code, message="", times=None, when=lambda _body: True):
        """Answer a call with an error, from now on or so many times, where `when` says so of the body."""
        left = [times]

        def refuse(name, body):
            if name != call or left[0] == 0 or not when(body):
                return None
            left[0] = None if left[0] is None else left[0] - 1
            return status, {"__type": code, "message": message, "Code": code, "Message": message}

        self.answers.append(refuse)

    def _handler(self):
        emulator = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                emulator.sent.append(f"{self.command} {self.path}\n{self.headers}\n{body.decode('utf-8', 'replace')}")
                name = _name_of(self)
                answers = [answer(name, body.decode("utf-8", "replace")) for answer in list(emulator.answers)]
                status, headers, data = next(
                    ((status, {"x-amzn-errortype": text["__type"]}, json.dumps(text).encode())
                     for status, text in filter(None, answers)),
                    None,
                ) or emulator._forward(self, body)  # fmt: skip
                emulator.received.append(data.decode("utf-8", "replace"))
                with contextlib.suppress(OSError):  # whoever asked was killed
                    self.send_response(status)
                    for key, value in headers.items():
                        self.send_header(key, value)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

        return Handler

    def _forward(self, request, body):
        headers = {key: value for key, value in request.headers.items() if key.lower() != "connection"}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)) as connection:
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        kept = {
            key: value
            for key, value in answer.getheaders()
            if key.lower() not in {"content-length", "connection", "transfer-encoding", "server", "date"}
        }
        return answer.status, kept, data


class _Proxy(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Say nothing: whoever asked was killed."""


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _name_of(request):
    """The name of a call, such as SQS.ReceiveMessage or scheduler.POST."""
    target = request.headers.get("X-Amz-Target", "")
    if target:
        return target.replace("AmazonSQS", "SQS").replace("AWSStepFunctions", "States")
    return f"scheduler.{request.command}"
