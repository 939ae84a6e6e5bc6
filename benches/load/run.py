#!/usr/bin/env python3
"""Atlas beside nginx and HAProxy: CPU per request, per GB, per handshake; memory per connection.

One worker each, pinned to one core; the load and the origin on the other. Every case is measured
in interleaved rounds (A B C A B C …) and told as the median; a ratio is the median of the ratios
within a round, since a machine that changes its speed does so for neighbours alike. CPU is what the
scheduler has counted for all threads of the server, its children included, so a server that waits
is not charged for waiting.

    cargo build --release && benches/load/run.py            # everything, about ten minutes
    benches/load/run.py --cases proxy-1k --rounds 5         # one case
    benches/load/run.py --servers nginx,haproxy             # without Atlas
    benches/load/run.py --cases endpoints-1,endpoints-10,endpoints-1000,least-10

Needs nginx, haproxy, wrk, curl and openssl (Debian packages of these names) and h2load (of
nghttp2-client). Python's ssl module makes the handshakes; with OpenSSL 3.0 its first key share is
X25519 for every server.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import re
import resource
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
RUN = HERE / "run"  # in .gitignore
NAME = "bench.test"
PORTS = {"origin": 18080, "atlas": 18443, "nginx": 18444, "haproxy": 18445}
KIB, MIB, GB = 1024, 1024 * 1024, 1e9
SETTLE_SECONDS = 2

# name: (what it is, unit, servers that can do it)
CASES = {
    "proxy-1k": ("HTTPS keep-alive, proxied, 1 KiB", "µs/request", ("atlas", "nginx", "haproxy")),
    "static-1k": ("HTTPS keep-alive, static file, 1 KiB", "µs/request", ("atlas", "nginx")),
    "static-10m": ("HTTPS static file, 10 MiB", "s/GB", ("atlas", "nginx")),
    "download": ("download of 100 MiB through the proxy", "s/GB", ("atlas", "nginx", "haproxy")),
    "upload": ("upload of 100 MiB through the proxy", "s/GB", ("atlas", "nginx", "haproxy")),
    "handshake": ("full TLS 1.3 handshake, then close", "µs/handshake", ("atlas", "nginx", "haproxy")),
    "resumed": ("resumed TLS 1.3 handshake, then close", "µs/handshake", ("atlas", "nginx", "haproxy")),
    "h2-proxy-1k": ("HTTP/2 on 8 connections, 8 streams each, proxied, 1 KiB", "µs/request", ("atlas", "nginx", "haproxy")),
    "h2-static-1k": ("the same, static file, 1 KiB", "µs/request", ("atlas", "nginx")),
    "h2-download": ("HTTP/2 download of 100 MiB through the proxy", "s/GB", ("atlas", "nginx", "haproxy")),
    "h2-upload": ("HTTP/2 upload of 100 MiB through the proxy", "s/GB", ("atlas", "nginx", "haproxy")),
    "endpoints-1": ("as the first, 1 endpoint", "µs/request", ("atlas", "nginx", "haproxy")),
    "endpoints-10": ("10 endpoints in turn", "µs/request", ("atlas", "nginx", "haproxy")),
    "endpoints-1000": ("1,000 endpoints in turn", "µs/request", ("atlas", "nginx", "haproxy")),
    "least-10": ("10 endpoints, least connections", "µs/request", ("atlas", "nginx", "haproxy")),
    "idle": ("memory of an idle TLS connection", "KiB/connection", ("atlas", "nginx", "haproxy")),
}


def main():
    options = arguments()
    prepare()
    with contextlib.ExitStack() as stack:
        start_origin(stack, options)
        servers = {name: START[name](stack, options) for name in options.servers}
        for name in servers:
            check(name, options)
        results = measure(servers, options)
        described = describe(options)
    table = report(results, described, options)
    print(table)
    if options.out:
        pathlib.Path(options.out).write_text(table)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", default="atlas,nginx,haproxy", help="which to measure")
    parser.add_argument("--cases", default=",".join(CASES), help="which cases")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of load for each measurement of requests")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="for each measurement of bytes")
    parser.add_argument("--handshakes", type=int, default=4000, help="for each measurement of handshakes")
    parser.add_argument("--connections", type=int, default=5000, help="for the idle memory")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1)
    parser.add_argument("--atlas", default=str(REPOSITORY / "target/release/atlas"), help="the binary")
    parser.add_argument("--epoll", action="store_true", help="run Atlas on epoll")
    parser.add_argument("--out", help="write the table to this file, too")
    options = parser.parse_args()
    options.servers = options.servers.split(",")
    options.cases = options.cases.split(",")
    for unknown in set(options.cases) - set(CASES):
        parser.error(f"no case {unknown}; there are {', '.join(CASES)}")
    return options


# -- setting up ---------------------------------------------------------------------------------


def prepare():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    www = RUN / "www"
    www.mkdir(parents=True, exist_ok=True)
    RUN.chmod(0o755)
    for name, size in (("1k", KIB), ("10m", 10 * MIB), ("100m", 100 * MIB)):
        file = www / name
        if not file.exists() or file.stat().st_size != size:
            file.write_bytes(os.urandom(size))
    certificate, key = RUN / "cert.pem", RUN / "key.pem"
    if not certificate.exists():
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-days", "3650", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}",
             "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )
    (RUN / "both.pem").write_text(certificate.read_text() + key.read_text())


def start(stack, core, command, environment=None):
    log = open(RUN / f"{pathlib.Path(command[0]).name}-{core}.log", "w")
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *map(str, command)],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(environment or {})},
    )
    stack.callback(stop, process)
    return process


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def await_port(port, process):
    for _ in range(500):
        if process.poll() is not None:
            sys.exit(f"a server ended at once; see {RUN}/*.log")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    sys.exit(f"nobody listens on {port}; see {RUN}/*.log")


def start_origin(stack, options):
    """nginx, without TLS, on the core of the load: its cost is nobody's."""
    file = RUN / "origin.conf"
    file.write_text(nginx_configuration("origin", f"""
        server {{
            listen {PORTS['origin']} backlog=4096; # all of 127.0.0.0/8: as many endpoints as are wanted
            root {RUN}/www;
            location ~ ^/(endpoints|least)-[0-9]+(/.*) {{ alias {RUN}/www$2; }}
            # Read whole before it is answered: an early answer would let a proxy drop the rest.
            location = /sink {{
                proxy_request_buffering on;
                proxy_pass_request_body off;
                proxy_set_header Content-Length "";
                proxy_pass http://127.0.0.1:{PORTS['origin']}/taken;
            }}
            location = /taken {{ return 200 "taken"; }}
        }}"""))
    process = start(stack, options.load_core, [shutil.which("nginx") or "/usr/sbin/nginx", "-c", file])
    await_port(PORTS["origin"], process)


# Cases that have a group of endpoints of their own, by how these are chosen.
IN_TURN = ("endpoints-1", "endpoints-10", "endpoints-1000")
BY_LOAD = ("least-10",)
GROUPS = IN_TURN + BY_LOAD


def endpoints(group):
    """Addresses of the origin, each an endpoint of its own."""
    count = int(group.split("-")[1])
    return [f"127.1.{number // 250}.{number % 250 + 1}:{PORTS['origin']}" for number in range(count)]


def nginx_configuration(name, server):
    return f"""
    daemon off;
    worker_processes 1;
    pid {RUN}/{name}.pid;
    error_log {RUN}/{name}-error.log;
    worker_rlimit_nofile 20000;
    events {{ worker_connections 16384; }}
    http {{
        access_log off;
        sendfile on;
        tcp_nopush on;
        client_max_body_size 0;
        keepalive_timeout 600s;
        keepalive_requests 100000000;
        http2_max_concurrent_streams 128;
        client_body_temp_path {RUN}/{name}-body;
        proxy_temp_path {RUN}/{name}-proxy;
        fastcgi_temp_path {RUN}/{name}-fastcgi;
        uwsgi_temp_path {RUN}/{name}-uwsgi;
        scgi_temp_path {RUN}/{name}-scgi;
        {server}
    }}
    """


def start_nginx(stack, options):
    file = RUN / "nginx.conf"
    groups = "".join(f"""
        upstream {group} {{
            {"least_conn;" if group in BY_LOAD else ""}
            {" ".join(f"server {one};" for one in endpoints(group))}
            keepalive 2000;
            keepalive_requests 100000000;
        }}""" for group in GROUPS)
    locations = " ".join(f"location /{group}/ {{ proxy_pass http://{group}; }}" for group in GROUPS)
    file.write_text(nginx_configuration("nginx", f"""
        upstream app {{
            server 127.0.0.1:{PORTS['origin']};
            keepalive 64;
            keepalive_requests 100000000;
        }}
        {groups}
        server {{
            listen 127.0.0.1:{PORTS['nginx']} ssl http2 backlog=4096;
            ssl_certificate {RUN}/cert.pem;
            ssl_certificate_key {RUN}/key.pem;
            ssl_protocols TLSv1.2 TLSv1.3;
            ssl_session_tickets on;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_request_buffering off;   # stream uploads, as the others do
            proxy_max_temp_file_size 0;    # stream downloads, as the others do
            location /static/ {{ alias {RUN}/www/; }}
            {locations}
            location / {{ proxy_pass http://app; }}
        }}"""))
    process = start(stack, options.server_core, [shutil.which("nginx") or "/usr/sbin/nginx", "-c", file])
    await_port(PORTS["nginx"], process)
    return process


def start_haproxy(stack, options):
    file = RUN / "haproxy.cfg"
    groups = "".join(f"""
backend {group}
    balance {"leastconn" if group in BY_LOAD else "roundrobin"}
""" + "".join(f"    server e{number} {one} pool-max-conn 64\n" for number, one in enumerate(endpoints(group)))
        for group in GROUPS)
    uses = "".join(f"    use_backend {group} if {{ path_beg /{group}/ }}\n" for group in GROUPS)
    file.write_text(f"""
global
    nbthread 1
    maxconn 8000
    ssl-default-bind-options ssl-min-ver TLSv1.2
    ssl-server-verify none
defaults
    mode http
    option http-keep-alive
    option forwardfor
    http-reuse always
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout http-keep-alive 600s
frontend tls
    bind 127.0.0.1:{PORTS['haproxy']} ssl crt {RUN}/both.pem alpn h2,http/1.1 backlog 4096
    http-request set-header X-Forwarded-Proto https
{uses}    default_backend app
backend app
    server origin 127.0.0.1:{PORTS['origin']} pool-max-conn 64
{groups}""")
    process = start(stack, options.server_core, [shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f", file])
    await_port(PORTS["haproxy"], process)
    return process


def start_atlas(stack, options):
    if not pathlib.Path(options.atlas).exists():
        sys.exit(f"{options.atlas} is not there: cargo build --release")
    file = RUN / "atlas.toml"
    groups = "".join(f"""
[[route]]
path = "/{group}"
upstream = "{group}"

[upstream.{group}]
endpoints = {json.dumps(endpoints(group))}
balance = "{"least_connections" if group in BY_LOAD else "round_robin"}"
""" for group in GROUPS)
    file.write_text(f"""
workers = 1

[listen]
address = "127.0.0.1"
port = {PORTS['atlas']}

[tls]
cert = "{RUN}/cert.pem"
key = "{RUN}/key.pem"

[[route]]
path = "/static"
files = "{RUN}/www"
strip_prefix = true

[[route]]
upstream = "app"

[upstream.app]
endpoints = ["127.0.0.1:{PORTS['origin']}"]

[timeouts]
idle = "600s"

[access_log]
enabled = false
""" + groups)
    environment = {"ATLAS_DRIVER": "epoll"} if options.epoll else {}
    process = start(stack, options.server_core, [options.atlas, "run", "-c", file], environment)
    await_port(PORTS["atlas"], process)
    return process


START = {"atlas": start_atlas, "nginx": start_nginx, "haproxy": start_haproxy}


def check(name, options):
    """Every server gives the same bytes before anything is counted."""
    expected = (RUN / "www/1k").read_bytes()
    paths = ["/1k"] + [f"/{case}/1k" for case in options.cases if case in GROUPS and name in CASES[case][2]]
    paths += ["/static/1k"] if name in CASES["static-1k"][2] else []
    for path in paths:
        got = subprocess.run(["curl", "-sSk", *resolve(name), url(name, path)], capture_output=True)
        if got.stdout != expected:
            sys.exit(f"{name} does not serve {path}: {got.stderr.decode()}{got.stdout[:200]!r}")
    sent = curl(name, "/sink", 1, options, upload=RUN / "www/10m")
    if sent != 10 * MIB:
        sys.exit(f"{name} took {sent} bytes of 10 MiB")


# -- measuring ----------------------------------------------------------------------------------


def measure(servers, options):
    results = {}
    for cases in together(options.cases):
        rounds = 1 if cases == ["idle"] else options.rounds
        for number in range(rounds):
            for case, name in [(case, name) for case in cases for name in servers if name in CASES[case][2]]:
                value = MEASURE[case](name, servers[name].pid, options)
                results.setdefault(case, {}).setdefault(name, []).append(value)
                print(f"{case} {name} round {number + 1}: {value:.4g} {CASES[case][1]}", file=sys.stderr)
    return results


def together(cases):
    """Those that are compared with one another are measured in the same rounds."""
    group = [case for case in cases if case.startswith("endpoints-")]
    return [[case] for case in cases if case not in group] + ([group] if group else [])


def wrk(name, path, seconds, options):
    return subprocess.run(
        ["taskset", "-c", str(options.load_core), "wrk", "-t1", "-c64", f"-d{seconds}s",
         "-H", f"Host: {NAME}", f"https://127.0.0.1:{PORTS[name]}{path}"],
        check=True, capture_output=True, text=True,
    ).stdout


def requests(path, settle=False):
    def run(name, pid, options):
        if settle:  # connections to all endpoints are made
            wrk(name, path, SETTLE_SECONDS, options)
        before = cpu_seconds(pid)
        output = wrk(name, path, options.seconds, options)
        spent = cpu_seconds(pid) - before
        if "Non-2xx" in output or "Socket errors" in output:
            sys.exit(f"{name} failed requests:\n{output}")
        return spent * 1e6 / int(re.search(r"(\d+) requests in", output)[1])
    return run


def h2_requests(path):
    def run(name, pid, options):
        before = cpu_seconds(pid)
        output = subprocess.run(
            ["taskset", "-c", str(options.load_core), "h2load", "-t1", "-c8", "-m8", f"-D{options.seconds}",
             f"--connect-to=127.0.0.1:{PORTS[name]}", url(name, path)],
            check=True, capture_output=True, text=True,
        ).stdout
        spent = cpu_seconds(pid) - before
        done = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", output)
        statuses = re.search(r"status codes: (\d+) 2xx", output)
        if "Application protocol: h2" not in output or done[2] != "0" or statuses[1] != done[1]:
            sys.exit(f"{name} failed requests:\n{output}")
        return spent * 1e6 / int(done[1])
    return run


def bytes_down(path, size, version="1.1"):
    def run(name, pid, options):
        times = max(1, round(options.gigabytes * GB / size))
        before = cpu_seconds(pid)
        moved = curl(name, path, times, options, version=version)
        if moved != times * size:
            sys.exit(f"{name} sent {moved} bytes, not {times} × {size}")
        return (cpu_seconds(pid) - before) * GB / moved
    return run


def bytes_up(version="1.1"):
    def run(name, pid, options):
        size = 100 * MIB
        times = max(1, round(options.gigabytes * GB / size))
        before = cpu_seconds(pid)
        moved = curl(name, "/sink", times, options, upload=RUN / "www/100m", version=version)
        if moved != times * size:
            sys.exit(f"{name} took {moved} bytes, not {times} × {size}")
        return (cpu_seconds(pid) - before) * GB / moved
    return run


def curl(name, path, times, options, upload=None, version="1.1"):
    """Transfers on one connection, one after the other; how many bytes were moved."""
    counter = "%{size_upload}" if upload else "%{size_download}"
    command = ["taskset", "-c", str(options.load_core), "curl", "-sSk", "--fail", *resolve(name, version)]
    for number in range(times):
        if number:
            command.append("--next")
            command += ["-sSk", "--fail", *resolve(name, version)]
        command += ["-o", "/dev/null", "-w", counter + " %{http_code} %{http_version}\n"]
        if upload:
            command += ["-T", str(upload), "-X", "POST", "-H", "Expect:"]
        command.append(url(name, path))
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    total = 0
    for line in output.splitlines():
        moved, status, spoken = line.split()
        if status != "200" or spoken != version:
            sys.exit(f"{name} answered {status} to {path} by HTTP/{spoken}")
        total += int(moved)
    return total


def handshakes(resumed):
    def run(name, pid, options):
        before = cpu_seconds(pid)
        os.sched_setaffinity(0, {options.load_core})
        context = client_context()
        session = ticket(context, name) if resumed else None
        warm = cpu_seconds(pid)
        for _ in range(options.handshakes):
            with connect(context, name, session) as stream:
                if stream.session_reused != resumed:
                    sys.exit(f"{name}: resumed is {stream.session_reused}, not {resumed}")
                finish(stream)
        # A server may still be closing.
        time.sleep(0.05)
        assert warm >= before
        return (cpu_seconds(pid) - warm) * 1e6 / options.handshakes
    return run


def client_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with contextlib.suppress(ssl.SSLError):  # the same key exchange for all
        context.set_ecdh_curve("X25519")  # Python 3.11 of Debian 12 cannot say so; it is OpenSSL's first choice
    context.set_alpn_protocols(["http/1.1"])
    return context


def connect(context, name, session=None):
    stream = socket.create_connection(("127.0.0.1", PORTS[name]), 10)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(stream, server_hostname=NAME, session=session)


def ticket(context, name):
    """A session with a ticket, which comes with the first answer."""
    with connect(context, name) as stream:
        ask(stream)
        return stream.session


def ask(stream):
    stream.sendall(f"GET /1k HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer or len(answer.split(b"\r\n\r\n", 1)[1]) < KIB:
        piece = stream.recv(65536)
        if not piece:
            sys.exit(f"the connection ended within {answer[:200]!r}")
        answer += piece
    if not answer.startswith(b"HTTP/1.1 200"):
        sys.exit(f"not 200: {answer[:200]!r}")


def finish(stream):
    """close_notify both ways; a server that only closes is as good."""
    with contextlib.suppress(OSError, ssl.SSLError):
        stream.unwrap()


def idle(name, pid, options):
    """Each connection has served one request, so that nothing is still to be set up."""
    os.sched_setaffinity(0, {options.load_core})
    context = client_context()
    warm = [connect(context, name) for _ in range(64)]
    for stream in warm:
        ask(stream)
        stream.close()
    time.sleep(0.5)
    before = memory_bytes(pid)
    held = []
    for _ in range(options.connections):
        stream = connect(context, name)
        ask(stream)
        held.append(stream)
    time.sleep(1)
    after = memory_bytes(pid)
    for stream in held:
        stream.close()
    time.sleep(0.5)
    return (after - before) / KIB / options.connections


# Cases with several endpoints, or to be compared with them.
MEASURE = {
    **{case: requests(f"/{case}/1k", settle=True) for case in GROUPS},
    "proxy-1k": requests("/1k"),
    "static-1k": requests("/static/1k"),
    "static-10m": bytes_down("/static/10m", 10 * MIB),
    "download": bytes_down("/100m", 100 * MIB),
    "upload": bytes_up(),
    "handshake": handshakes(resumed=False),
    "resumed": handshakes(resumed=True),
    "h2-proxy-1k": h2_requests("/1k"),
    "h2-static-1k": h2_requests("/static/1k"),
    "h2-download": bytes_down("/100m", 100 * MIB, "2"),
    "h2-upload": bytes_up("2"),
    "idle": idle,
}


def url(name, path):
    return f"https://{NAME}:{PORTS[name]}{path}"


def resolve(name, version="1.1"):
    how = {"1.1": "--http1.1", "2": "--http2"}[version]
    return ["--resolve", f"{NAME}:{PORTS[name]}:127.0.0.1", how, "--tlsv1.3"]


def tree(pid):
    yield pid
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        yield from tree(int(child))


def cpu_seconds(pid):
    total = 0
    for each in tree(pid):
        for thread in pathlib.Path(f"/proc/{each}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def memory_bytes(pid):
    """Proportional set size: what is shared between processes is counted once."""
    total = 0
    for each in tree(pid):
        text = pathlib.Path(f"/proc/{each}/smaps_rollup").read_text()
        total += int(re.search(r"^Pss:\s+(\d+) kB", text, re.M)[1]) * KIB
    return total


# -- telling ------------------------------------------------------------------------------------


def describe(options):
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    lines = [
        f"{cpu[1] if cpu else platform.machine()}, Linux {platform.release()}, {time.strftime('%Y-%m-%d')}",
        version(["nginx", "-v"]), version(["haproxy", "-v"]), version(["openssl", "version"]),
    ]
    if "atlas" in options.servers:
        lines.append(version([options.atlas, "version"]))
        lines.append("Atlas on " + ("epoll" if options.epoll else "its own choice of driver"))
    for name in options.servers:
        with connect(client_context(), name) as stream:
            lines.append(f"{name}: {stream.version()} {stream.cipher()[0]}, X25519 (the client's first group)")
    return lines


def version(command):
    try:
        ran = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return f"{command[0]}: {error}"
    return (ran.stdout + ran.stderr).strip().splitlines()[0]


def report(results, described, options):
    lines = ["| Case | Unit | " + " | ".join(options.servers) + " | "]
    lines[0] += " | ".join(f"{name} ÷ nginx" for name in options.servers if name != "nginx") + " |"
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    for case, values in results.items():
        title, unit, _ = CASES[case]
        cells = [spread(values[name]) if name in values else "–" for name in options.servers]
        for name in options.servers:
            if name != "nginx":
                both = name in values and "nginx" in values
                cells.append(f"{ratio(values[name], values['nginx']):.2f}" if both else "–")
        lines.append(f"| {title} | {unit} | " + " | ".join(cells) + " |")
    one = results.get("endpoints-1", {}).get("atlas")
    for case in ("endpoints-10", "endpoints-1000"):
        if one and case in results:
            to_one = ratio(results[case]["atlas"], one)
            lines.append(f"\nAtlas, {CASES[case][0]} ÷ 1 endpoint: {to_one:.3f}")
    lines += ["", f"Medians of {options.rounds} interleaved rounds, smallest and largest in brackets."]
    lines += ["", *(f"- {line}" for line in described)]
    return "\n".join(lines) + "\n"


def ratio(rounds, others):
    return statistics.median(one / other for one, other in zip(rounds, others, strict=True))


def spread(rounds):
    middle = statistics.median(rounds)
    if len(rounds) == 1:
        return f"{middle:.3g}"
    return f"{middle:.3g} [{min(rounds):.3g}–{max(rounds):.3g}]"


if __name__ == "__main__":
    main()
