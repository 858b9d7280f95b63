"""The parts of `make rehearse` that must not pass anything over in silence."""

import json
import ssl
import urllib.request
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from threading import Thread

import pytest
from botocore.exceptions import ClientError

from gavel.rehearsal.cloud import running
from gavel.rehearsal.domain import https_domain
from gavel.rehearsal.lambda_runtime import invoke
from gavel.rehearsal.principals import Principals

MASTER = {"AdvancedSecurityOptions": {"MasterUserOptions": {"MasterUserARN": "arn:aws:iam::123456789012:role/admin"}}}
CODE = "import json, sys\n\ndef handler(event, context):\n    print('working')\n    return {handler}\n"


class Echo(BaseHTTPRequestHandler):
    """Answers with the path that it was asked for, or with the roles that the request names."""

    def do_GET(self):
        body = (self.headers["X-Proxy-Roles"] if self.path == "/headers" else self.path).encode()
        self.send_response(418)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self):
        """Take permissions, as the node's security plugin does."""
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


@pytest.fixture
def domain(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    Thread(target=server.serve_forever, daemon=True).start()
    with https_domain(f"http://127.0.0.1:{server.server_port}", tmp_path, Principals("123456789012")) as made:
        yield made
    server.shutdown()
    server.server_close()


def ask(domain, path, method="GET", **headers):
    trusted = ssl.create_default_context(cafile=domain.certificate)
    request = urllib.request.Request(f"https://{domain.endpoint}{path}", method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, context=trusted, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read()


SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=deployer/20261130/eu-west-1/es/aws4_request"}


def test_the_domain_hands_signed_requests_to_the_node_and_refuses_others(domain):
    assert ask(domain, "/_search?q=a", **SIGNED) == (418, b"/_search?q=a")
    assert ask(domain, "/_search?q=a")[0] == 403
    assert [(denial.role, denial.action) for denial in domain.principals.denials] == [("unsigned", "es:ESHttpGet")]


def test_nobody_names_the_role_of_a_request_but_the_domain(domain):
    assert ask(domain, "/headers", **SIGNED, **{"X-Proxy-Roles": "all_access"}) == (418, b"administrator")


def test_a_young_domain_answers_as_one(domain):
    domain.passing.append((503, "OpenSearch Security not initialized."))
    assert ask(domain, "/", **SIGNED) == (503, b"OpenSearch Security not initialized.")
    assert ask(domain, "/", **SIGNED) == (418, b"/")


def called(tmp_path, body, **given):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "entry.py").write_text(CODE.replace("{handler}", body))
    return invoke(tmp_path / "code", "entry.handler", {"n": 2}, {}, tmp_path / "work", **given)


def test_a_function_answers_and_its_words_are_kept(tmp_path):
    answered = called(tmp_path, "{'twice': 2 * event['n'], 'python': list(sys.version_info[:2])}")
    assert (answered.failed, answered.answer) == (False, {"twice": 4, "python": [3, 12]})
    assert answered.log == "working\n"


def test_a_function_that_raises_has_failed_and_says_why(tmp_path):
    answered = called(tmp_path, "1 / 0")
    assert (answered.failed, answered.answer) == (True, None)
    assert "ZeroDivisionError" in answered.log


def test_a_function_that_takes_too_long_is_ended(tmp_path):
    answered = called(tmp_path, "__import__('time').sleep(60)", timeout_s=1)
    assert answered.failed
    assert "took more than 1 s" in answered.log


def test_a_function_finds_nothing_of_this_project_on_its_path(tmp_path):
    assert called(tmp_path, "__import__('importlib.util').util.find_spec('retrieval') is None").answer is True


@pytest.fixture
def cloud(domain, tmp_path):
    work = tmp_path / "cloud"
    work.mkdir()
    with running(domain, work) as made:
        yield made


def test_what_the_emulation_does_not_know_is_deployed_as_a_stand_in_and_listed(cloud, domain):
    template = {
        "Resources": {
            "Domain": {"Type": "AWS::OpenSearchService::Domain", "Properties": {"DomainName": "gavel", **MASTER}},
            "Wall": {"Type": "AWS::WAFv2::WebACL", "Properties": {"Name": "wall"}},
        },
        "Outputs": {
            name: {"Value": {"Fn::GetAtt": ["Domain", attribute]}}
            for name, attribute in (("Arn", "Arn"), ("Endpoint", "DomainEndpoint"))
        },
    }
    formation = cloud.client("cloudformation")
    formation.create_stack(StackName="s", TemplateBody=json.dumps(template))
    (stack,) = formation.describe_stacks(StackName="s")["Stacks"]
    arn = "arn:aws:es:eu-west-1:123456789012:domain/gavel"  # of the real form, which policies name
    assert {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]} == {"Arn": arn, "Endpoint": domain.endpoint}
    assert domain.arn == arn
    assert {kind: len(names) for kind, names in cloud.record.resources.items()} == {
        "AWS::OpenSearchService::Domain": 1,
        "AWS::WAFv2::WebACL": 1,
    }


def test_a_custom_resource_whose_function_does_not_answer_fails_its_stack(cloud):
    trust = {"Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
    role = cloud.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", **trust}))
    function = {"Runtime": "python3.12", "Handler": "index.handler", "Role": role["Role"]["Arn"]}
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("index.py", "def handler(event, context):\n    return None\n")
    cloud.client("s3").create_bucket(Bucket="code", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    cloud.client("s3").put_object(Bucket="code", Key="silent.zip", Body=packed.getvalue())
    silent = {"S3Bucket": "code", "S3Key": "silent.zip"}
    template = {
        "Resources": {
            "Function": {"Type": "AWS::Lambda::Function", "Properties": {**function, "Code": silent}},
            "Made": {"Type": "Custom::Thing", "Properties": {"ServiceToken": {"Fn::GetAtt": ["Function", "Arn"]}}},
        }
    }
    with pytest.raises(ClientError, match="Custom::Thing Made failed: no answer"):
        cloud.client("cloudformation").create_stack(StackName="s", TemplateBody=json.dumps(template))
    assert [(called.answer, called.failed) for _, called in cloud.invocations] == [(None, False)]
