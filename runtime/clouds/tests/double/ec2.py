"""A small EC2 whose instances are machines that answer SSH.

The API is moto's, written by people who know EC2 and do not know Skysail. Around it, what moto leaves out:

- an instance is `pending` until its machine runs, and `shutting-down` until it is gone; machines are made by
  whoever started this program: requests go out as lines of JSON on stdout, answers come in on stdin;
- signatures are checked, with botocore's own signer;
- `ClientToken` is idempotent; listings come in pages of two;
- a price list (moto has none);
- faults: `POST /__fault`, `/__kill`, `/__keys`; what was called and bought: `GET /__calls`.
"""

import base64
import collections
import io
import json
import logging
import os
import re
import socket
import sys
import tempfile
import threading
import urllib.parse

os.environ.setdefault("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "true")
os.environ.setdefault("MOTO_ENABLE_KEYPAIR_VALIDATION", "true")
os.environ.setdefault("AWS_ACCESS_KEY_ID", "moto")  # moto itself asks for some
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "moto")

DEBIAN = {
    "owner_id": "136693071363", "public": True, "virtualization_type": "hvm", "architecture": "x86_64",
    "state": "available", "platform": None, "image_type": "machine", "hypervisor": "xen", "sriov": "simple",
    "root_device_type": "ebs", "root_device_name": "/dev/xvda", "description": "Debian 13",
}
IMAGES = [
    {**DEBIAN, "ami_id": "ami-00000000debian130", "name": "debian-13-amd64-20250814", "creation_date": "2025-08-14T00:00:00.000Z"},
    {**DEBIAN, "ami_id": "ami-00000000debian131", "name": "debian-13-amd64-20261101", "creation_date": "2026-11-01T00:00:00.000Z"},
]
images = tempfile.NamedTemporaryFile("w", suffix=".json")
json.dump(IMAGES, images)
images.flush()
os.environ["MOTO_AMIS_PATH"] = images.name

import yaml  # noqa: E402
from botocore.auth import SigV4Auth  # noqa: E402
from botocore.awsrequest import AWSRequest  # noqa: E402
from botocore.credentials import Credentials  # noqa: E402
from moto.ec2.models.instances import Instance, InstanceBackend  # noqa: E402
from moto.ec2.models.elastic_ip_addresses import ElasticAddressBackend  # noqa: E402
from moto.moto_server.werkzeug_app import (  # noqa: E402
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server  # noqa: E402

PRICES = {"t3.medium": "0.0416000000", "t3.large": "0.0832000000", "m6i.large": "0.0960000000"}

keys = {sys.argv[1]: sys.argv[2]}
faults = []
calls = collections.Counter()
bought = []
tokens = {}  # ClientToken -> (the request, its reservation)
machines = {}  # instance id -> {"instance", "address"}
lock = threading.RLock()
current = threading.local()


class Makers:
    """Asks for machines on stdout; answers come on stdin in any order."""

    def __init__(self):
        self.waiting = {}
        self.number = 0
        self.lock = threading.Lock()

    def ask(self, request):
        done = threading.Event()
        with self.lock:
            self.number += 1
            number = self.number
            self.waiting[number] = (done, {})
            print(json.dumps({"number": number, **request}), flush=True)
        done.wait()
        return self.waiting.pop(number)[1]

    def listen(self):
        for line in sys.stdin:
            answer = json.loads(line)
            done, place = self.waiting[answer["number"]]
            place.update(answer)
            done.set()
        os._exit(0)  # whoever started this is gone


makers = Makers()


def state(instance, code, name):
    instance._state.code, instance._state.name = code, name


def opened(user_data):
    """Who may log in as root, as cloud-init reads it."""
    text = base64.b64decode(user_data or "").decode() if user_data else ""
    if not text.startswith("#cloud-config\n"):
        return []
    config = yaml.safe_load(text)
    return config.get("ssh_authorized_keys", []) if config.get("disable_root") is False else []


def boot(instance):
    answer = makers.ask({"boot": instance.id, "keys": machines[instance.id]["keys"]})
    with lock:
        if instance._state.name != "pending":
            return
        if "internal" not in answer:
            print(f"machine of {instance.id}: {answer}", file=sys.stderr)
            return
        machines[instance.id]["address"] = answer["external"]
        instance.nics[0].private_ip_address = answer["internal"]
        instance.nics[0].public_ip = answer["external"]
        state(instance, 16, "running")


def end(instance):
    makers.ask({"stop": instance.id})
    with lock:
        state(instance, 48, "terminated")


run_instances = InstanceBackend.run_instances
terminate = Instance.terminate
stop, start = Instance.stop, Instance.start
associate = ElasticAddressBackend.associate_address


def launch(self, image_id, count, user_data, security_group_names, **kwargs):
    token = kwargs.get("client_token")
    with lock:
        if token in tokens:
            return tokens[token][1]
        reservation = run_instances(self, image_id, count, user_data, security_group_names, **kwargs)
        tokens[token] = (current.request, reservation)
        for instance in reservation.instances:
            bought.append(instance.id)
            state(instance, 0, "pending")
            machines[instance.id] = {"instance": instance, "keys": opened(current.form.get("UserData"))}
            threading.Thread(target=boot, args=(instance,), daemon=True).start()
        return reservation


def ending(self):
    before = terminate(self)
    state(self, 32, "shutting-down")
    threading.Thread(target=end, args=(self,), daemon=True).start()
    return before


def stopping(self):
    before = stop(self)
    threading.Thread(target=makers.ask, args=({"stop": self.id},), daemon=True).start()
    return before


def starting(self):
    before = start(self)
    state(self, 0, "pending")
    threading.Thread(target=boot, args=(self,), daemon=True).start()
    return before


def associated(self, *args, **kwargs):
    """An address leads to the machine: here, the one that the machine has."""
    address = associate(self, *args, **kwargs)
    machine = address.instance and machines.get(address.instance.id)
    if machine and "address" in machine:
        address.public_ip = machine["address"]
        address.eni.public_ip = machine["address"]
    return address


InstanceBackend.run_instances = launch
Instance.terminate = ending
Instance.stop, Instance.start = stopping, starting
ElasticAddressBackend.associate_address = associated


def error(code, message, status):
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?><Response><Errors><Error><Code>{code}</Code>'
        f"<Message>{message}</Message></Error></Errors><RequestID>double</RequestID></Response>"
    )
    return status, "text/xml", body.encode()


def refused(environ, body):
    """Why the signature does not hold, or None."""
    header = environ.get("HTTP_AUTHORIZATION", "")
    found = re.match(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/([^/]+)/([^/]+)/aws4_request, SignedHeaders=([^,]+), Signature=(\w+)",
        header,
    )
    if not found:
        return error("MissingAuthenticationToken", "no signature", 401)
    key, region, service, signed, theirs = found.groups()
    if key not in keys:
        return error("AuthFailure", "AWS was not able to validate the provided access credentials", 401)
    names = {"content-type": "CONTENT_TYPE"}
    headers = {n: environ.get(names.get(n, "HTTP_" + n.upper().replace("-", "_"))) for n in signed.split(";")}
    request = AWSRequest("POST", f"http://{environ['HTTP_HOST']}/", headers=headers, data=body)
    request.context["timestamp"] = environ["HTTP_X_AMZ_DATE"]
    signer = SigV4Auth(Credentials(key, keys[key]), service, region)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    if signer.signature(text, request) != theirs:
        return error("SignatureDoesNotMatch", "the signature we calculated does not match", 403)
    return None


def price_list(query):
    def entry(name, price):
        dimension = {"unit": "Hrs", "pricePerUnit": {"USD": price}}
        return json.dumps(
            {
                "product": {"attributes": {"instanceType": name}},
                "terms": {"OnDemand": {"a.b": {"priceDimensions": {"a.b.c": dimension}}}},
            }
        )

    return {"FormatVersion": "aws_v1", "PriceList": [entry(*pair) for pair in PRICES.items()]}


def fault_for(action, form):
    with lock:
        for fault in faults:
            if fault["action"] not in (action, "*"):
                continue
            if fault.get("dryRun") is not None and fault["dryRun"] != (form.get("DryRun") == "true"):
                continue
            fault["count"] -= 1
            if fault["count"] <= 0:
                faults.remove(fault)
            return fault
    return None


def control(path, body):
    wanted = json.loads(body) if body else {}
    if path == "/__fault":
        with lock:
            faults.clear() if wanted.get("clear") else faults.append({"count": 1, **wanted})
    elif path == "/__reset":
        for machine in list(machines.values()):
            if machine["instance"]._state.name in ("pending", "running", "stopped"):
                machine["instance"].terminate()
        for kept in (faults, calls, bought, tokens, machines):
            kept.clear()
        keys.clear()
        keys[sys.argv[1]] = sys.argv[2]
    elif path == "/__keys":
        keys.clear()
        keys.update(wanted)
    elif path == "/__kill":
        machines[wanted["id"]]["instance"].terminate()
    elif path == "/__stop":
        machines[wanted["id"]]["instance"].stop()
    answer = {"calls": calls, "bought": bought}
    answer["living"] = [
        i for i, m in machines.items() if m["instance"]._state.name not in ("shutting-down", "terminated")
    ]
    return 200, "application/json", json.dumps(answer).encode()


class Double:
    def __init__(self, moto):
        self.moto = moto

    def __call__(self, environ, start_response):
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        answer = self.answer(environ, body, environ["PATH_INFO"])
        if answer is None:
            # The answer is lost on its way.
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            start_response("500 lost", [])
            return [b""]
        status, kind, text = answer
        start_response(f"{status} x", [("Content-Type", kind), ("Content-Length", str(len(text)))])
        return [text]

    def answer(self, environ, body, path):
        if path.startswith("/__"):
            return control(path, body)
        failed = refused(environ, body)
        if failed:
            return failed
        if "HTTP_X_AMZ_TARGET" in environ:
            calls["GetProducts"] += 1
            return 200, "application/x-amz-json-1.1", json.dumps(price_list(json.loads(body))).encode()
        form = {k: v[0] for k, v in urllib.parse.parse_qs(body.decode()).items()}
        action = form["Action"]
        calls[action] += 1
        fault = fault_for(action, form)
        if fault and "code" in fault:
            return error(fault["code"], fault.get("message", "a fault was asked for"), fault.get("status", 400))
        if fault and "html" in fault:
            return fault.get("status", 200), "text/html", fault["html"].encode()
        if fault and "hide" in fault:
            return 200, "text/xml", b"<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>"
        known = tokens.get(form.get("ClientToken"))
        if known and form.get("DryRun") != "true" and known[0] != form:
            return error("IdempotentParameterMismatch", "another request had this token", 400)
        status, kind, text = self.forward(environ, body, form)
        if fault and "lost" in fault:
            return None
        if fault and "replace" in fault:
            text = re.sub(fault["replace"][0].encode(), fault["replace"][1].encode(), text)
        return status, kind, text

    def forward(self, environ, body, form):
        current.form = current.request = form
        if form["Action"] == "DescribeInstances":
            body = body.replace(b"MaxResults=500", b"MaxResults=2")
        said = {}

        def start_response(status, headers, *_):
            said["status"], said["headers"] = int(status.split()[0]), dict(headers)

        environ = {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        text = b"".join(self.moto(environ, start_response))
        return said["status"], said["headers"].get("Content-Type", "text/xml"), text


def main():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = Double(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=makers.listen, daemon=True).start()
    print(json.dumps({"port": server.port}), flush=True)
    server.serve_forever()


main()
