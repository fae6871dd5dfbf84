# SPDX-License-Identifier: Apache-2.0
"""An etcd as a careful site runs it: TLS both ways, users with passwords, a role that may touch Holdfast's keys only."""

from .cluster import Etcd
from .process import run

USER, PASSWORD, ROOT_PASSWORD = "holdfast", "correct horse", "battery staple"


def openssl(directory, *words):
    run(["openssl", *map(str, words)], timeout_s=20, check=True, cwd=directory)


def make_authority(directory):
    openssl(directory, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test authority", "-days", 2, "-keyout", "ca.key", "-out", "ca.pem")


def make_certificate(directory, name, address=None):
    """NAME.pem and NAME.key, signed by the authority; with an address, good for a server there. Without, it has no common name:
    etcd's JSON gateway refuses requests of clients that have one while passwords are in use."""
    extensions = directory / f"{name}.ext"
    # etcd's JSON gateway is a client of its own server, with the server's certificate.
    extensions.write_text(f"extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=IP:{address},IP:127.0.0.1\n" if address else "extendedKeyUsage=clientAuth\n")
    openssl(directory, "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}" if address else "/O=holdfast", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    openssl(directory, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", 2, "-extfile", extensions, "-out", f"{name}.pem")


class SecureEtcd(Etcd):
    scheme = "https"
    logged_in = False

    def start_all(self):
        super().start_all()
        self.enable_passwords()

    def prepare(self, name, address):
        if not (self.base / "ca.pem").exists():
            make_authority(self.base)
            make_certificate(self.base, "client")
            (self.base / "password").write_text(PASSWORD + "\n")
        make_certificate(self.base, name, address)

    def server_options(self, name):
        files = [f"cert-file={name}.pem", f"key-file={name}.key", "trusted-ca-file=ca.pem"]
        words = [f"--{word.replace('=', f'={self.base}/')}" for word in files]
        peer_words = [word.replace("--", "--peer-", 1) for word in words]
        # A token is good for a minute: daemons log in again during a test that takes longer, and after a restart.
        return [*words, "--client-cert-auth", *peer_words, "--peer-client-cert-auth", "--auth-token-ttl=5"]

    def client_options(self):
        files = [f"--cacert={self.base}/ca.pem", f"--cert={self.base}/client.pem", f"--key={self.base}/client.key"]
        return [*files, f"--user=root:{ROOT_PASSWORD}"] if self.logged_in else files

    def enable_passwords(self):
        """Users root and USER; USER may read and write what is below holdfast/ only."""
        first = next(iter(self.clients))
        for words in (
            ["user", "add", f"root:{ROOT_PASSWORD}"],
            ["user", "grant-role", "root", "root"],
            ["role", "add", "holdfast"],
            ["role", "grant-permission", "holdfast", "readwrite", "--prefix=true", "holdfast/"],
            ["user", "add", f"{USER}:{PASSWORD}"],
            ["user", "grant-role", USER, "holdfast"],
            ["auth", "enable"],
        ):
            self.ctl(first, *words, check=True)
        self.logged_in = True

    def store_config(self):
        return {
            "ca": self.base / "ca.pem",
            "cert": self.base / "client.pem",
            "key": self.base / "client.key",
            "user": USER,
            "password_file": self.base / "password",
        }
