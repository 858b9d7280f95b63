"""The security plugin of a node, configured as in a domain of Amazon OpenSearch Service.

Such a domain checks signatures in a proxy. The proxy tells the node who sent a request: the ARN of an IAM role, which is user and
backend role at once. So this node believes the headers of whoever connects from the loopback address, and nobody has a password.
At first only SERVICE, which stands for the service itself, has permissions.

A request that is forbidden on one of its indices fails whole (`do_not_fail_on_forbidden: false`). Amazon does not document its own
setting; this is the stricter one.
"""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gavel.opensearch.jars import SECURITY_PLUGIN

SERVICE = "opensearch-service"
SECURITY_API = "/_plugins/_security/api"
USER_HEADER, ROLES_HEADER, PROXY_HEADER = "X-Proxy-User", "X-Proxy-Roles", "X-Forwarded-For"
LOOPBACK = "127.0.0.1"
CERTIFICATE, KEY = "node.pem", "node.key"


def proxy_headers(role: str) -> dict[str, str]:
    """Return the headers by which a proxy tells a secured node the role that sent a request."""
    return {USER_HEADER: role, ROLES_HEADER: role, PROXY_HEADER: LOOPBACK}


def lay_out_home(home: Path, data: Path) -> Path:
    """Create a home folder of links for one node, with the plugins of `home` and the security plugin.

    Args:
        home: folder of the prepared layout, with the security plugin (jars.py).
        data: the node's own folder.

    Returns:
        The home folder, which is below `data`.
    """
    own = data / "home"
    shutil.rmtree(own, ignore_errors=True)
    (own / "plugins").mkdir(parents=True)
    for folder in ("lib", "modules"):
        (own / folder).symlink_to(home / folder)
    for plugin in (*(home / "plugins").iterdir(), home / "optional" / SECURITY_PLUGIN):
        (own / "plugins" / plugin.name).symlink_to(plugin)
    return own


def configure(home: Path, data: Path) -> None:
    """Write the certificate and the plugin's configuration files, which a node reads at its first start alone.

    Args:
        home: folder of the prepared layout, with the security plugin.
        data: the node's own folder.
    """
    certificate, key = data / "config" / CERTIFICATE, data / "config" / KEY
    write_certificate("localhost", certificate, key)
    folder = data / "config" / SECURITY_PLUGIN
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(home / "optional" / SECURITY_PLUGIN / "config", folder)
    mapping = {"all_access": {"reserved": False, "backend_roles": [SERVICE]}}
    for name, kind, content in (
        ("config", "config", {"config": {"dynamic": _DYNAMIC}}),
        ("roles_mapping", "rolesmapping", mapping),
        ("internal_users", "internalusers", {}),
    ):
        # JSON is YAML
        (folder / f"{name}.yml").write_text(json.dumps({"_meta": {"type": kind, "config_version": 2}, **content}))


_DYNAMIC: dict[str, Any] = {
    "do_not_fail_on_forbidden": False,
    "http": {"anonymous_auth_enabled": False, "xff": {"enabled": True, "internalProxies": LOOPBACK.replace(".", r"\.")}},
    "authc": {
        "proxy_auth_domain": {
            "http_enabled": True,
            "transport_enabled": True,
            "order": 0,
            "http_authenticator": {
                "type": "proxy",
                "challenge": False,
                "config": {"user_header": USER_HEADER.lower(), "roles_header": ROLES_HEADER.lower()},
            },
            "authentication_backend": {"type": "noop"},
        }
    },
}


def security_settings(data: Path) -> dict[str, str | list[str]]:
    """Return the plugin's settings of a node with the files of configure(). HTTP stays without TLS, which is the proxy's."""
    prefix = "plugins.security"
    config = data / "config"
    return {
        f"{prefix}.ssl.transport.pemcert_filepath": str(config / CERTIFICATE),
        f"{prefix}.ssl.transport.pemkey_filepath": str(config / KEY),
        f"{prefix}.ssl.transport.pemtrustedcas_filepath": str(config / CERTIFICATE),
        f"{prefix}.ssl.transport.enforce_hostname_verification": "false",
        f"{prefix}.ssl.http.enabled": "false",
        f"{prefix}.allow_default_init_securityindex": "true",
        f"{prefix}.restapi.roles_enabled": ["all_access", "security_rest_api_access"],
        f"{prefix}.nodes_dn": ["CN=localhost"],
        f"{prefix}.authcz.admin_dn": ["CN=admin"],
    }


def write_certificate(host: str, certificate: Path, key_file: Path) -> None:
    """Write a self-signed certificate of a host, which is valid for a day, and its key (PKCS#8)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
