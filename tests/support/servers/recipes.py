"""Real servers, run as `docs/hosting.md` and `more_servers.md` beside this module say.

A section with a configuration is a server. A configuration of nginx, Apache or lighttpd is included
in a main file that lets it run without privileges; Python is `files.py`; each line of a block
``sh`` is a command, and a server of its own.
"""

import importlib.util
import os
import re
import secrets
import shlex
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from processes import server_process

HERE = Path(__file__).parent
DOCUMENTED = HERE.parents[2] / "docs" / "hosting.md"
MORE = HERE / "more_servers.md"
PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
AS_ROOT = os.getuid() == 0  # then workers must stay root, or they could not read a test's folder

NGINX = f"""
{"user root;" if AS_ROOT else ""}
daemon off;
pid nginx.pid;
lock_file nginx.lock;
error_log stderr;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include site.conf;
}}
"""

MODULES = "mpm_event authz_core deflate env filter mime"
MODULES += " proxy proxy_http slotmem_shm proxy_balancer lbmethod_byrequests"
APACHE = (
    "".join(
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"
        for name in MODULES.split()
    )
    + """
ServerName localhost
PidFile httpd.pid
DefaultRuntimeDir .
Mutex pthread
TypesConfig /dev/null
ErrorLog /dev/stderr
Include site.conf
"""
)

LIGHTTPD = """
server.modules = ( "mod_deflate" )
include "site.conf"
"""

KINDS = {  # by the language of a block: its file, the main file and its content, the command
    "nginx": ("site.conf", "main.conf", NGINX, "nginx -p /srv/state -c main.conf -e stderr"),
    "apache": ("site.conf", "main.conf", APACHE, "apache2 -d /srv/state -f main.conf -DFOREGROUND"),
    "lighttpd": ("site.conf", "main.conf", LIGHTTPD, "lighttpd -D -f main.conf"),
    "caddyfile": ("Caddyfile", "none", "", "caddy run --config Caddyfile --adapter caddyfile"),
    "python": ("files.py", "none", "", ""),
}


@dataclass(frozen=True)
class Recipe:
    """A server: its name, its files by their names, the command that starts it."""

    name: str
    command: str
    files: dict[str, str] = field(default_factory=dict)

    @property
    def scheme(self) -> str:
        """Tell whether it speaks TLS."""
        return "https" if any("/srv/tls" in text for text in self.files.values()) else "http"

    def need(self) -> None:
        """Skip the test where a program or a package is missing."""
        program = shlex.split(self.command)[0]
        if shutil.which(program, path=PLACES) is None:
            pytest.skip(f"{program} is not installed")
        imports = re.findall(r"^(?:from|import) (\w+)", self.files.get("files.py", ""), re.M)
        for package in imports:
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed: pip install '.[servers]'")


def recipes(document: Path) -> dict[str, Recipe]:
    """Read the servers of a document, by their names."""
    found = {}
    for section in re.split(r"^#+ ", document.read_text(), flags=re.M)[1:]:
        title = section.partition("\n")[0]
        files, commands = {}, []
        for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", section, re.M | re.S):
            if language == "sh":
                commands += text.splitlines()
            elif language in KINDS:
                name, main, content, command = KINDS[language]
                files |= {name: text, main: content}
                commands += [command] if command else []
        for command in commands:
            program = command.partition(" ")[0]
            name = title if len(commands) == 1 else f"{title} by {program}"
            found[name] = Recipe(name, command, files)
    return found


RECIPES = recipes(DOCUMENTED) | recipes(MORE)


@contextmanager
def running(recipe: Recipe, directory: Path) -> Iterator[tuple[str, str]]:
    """Serve a folder until the end of the block.

    Gives the URL of the folder, with a slash at the end, and the path of the certificate to trust,
    empty without TLS.
    """
    recipe.need()
    with tempfile.TemporaryDirectory(prefix="server-") as folder:
        work = Path(folder)
        if recipe.scheme == "https":
            certificate(work)
        token = secrets.token_hex(16)
        sign = directory / f"{token}.txt"
        sign.write_text(token)

        def filled(text: str, port: int) -> str:
            own = {"/srv/vectors": directory, "/srv/state": work, "/srv/tls": work, "8000": port}
            return re.sub("|".join(own), lambda match: str(own[match[0]]), text)

        def command(port: int) -> list[str]:
            for name, text in recipe.files.items():
                (work / name).write_text(filled(text, port))
            program, *rest = shlex.split(filled(recipe.command, port))
            return [shutil.which(program, path=PLACES) or program, *rest]

        def ready(port: int) -> bool:
            try:
                url = f"{recipe.scheme}://127.0.0.1:{port}/{sign.name}"
                with urllib.request.urlopen(url, timeout=5, context=TRUSTING) as answer:
                    return answer.read().decode() == token
            except OSError:
                return False

        environment = os.environ | {"PATH": PLACES, "HOME": str(work), "PYTHONUNBUFFERED": "1"}
        log = work / "log"
        with server_process(command, ready, log, cwd=work, environment=environment) as port:
            sign.unlink()
            trusted = str(work / "certificate.pem") if recipe.scheme == "https" else ""
            yield f"{recipe.scheme}://127.0.0.1:{port}/", trusted


TRUSTING = ssl._create_unverified_context()


def certificate(folder: Path) -> None:
    """Make a certificate of this machine, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    command += ["-keyout", "key.pem", "-out", "certificate.pem", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
