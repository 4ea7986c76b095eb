# Sourced by hot.sh and profile.sh: runs the program as sidecars are run, with `cupbearer demo` for the vendors and their APIs.

# shellcheck shell=bash

work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT

# Starts the vendors and writes configurations: one.toml with one provider and one HTTP/1.1 upstream, plain.toml with what most need and
# no more, bare.toml the same with all else different: no admin port, a port of its own, names and secrets of other lengths, a slow token
# endpoint without TLS that closes its connections, an API that prefers AES-256 and has signed its certificate itself; all.toml with all
# vendors and HTTP/2.
vendors() {
    "$1" demo >"$work/demo" 2>&1 &
    until grep -q '^All five' "$work/demo"; do sleep 0.2; done
    local config
    config=$(sed -nE 's/^The proxy.s configuration, (.*):$/\1/p' "$work/demo")
    sed -E 's/^(listen|admin) .*/\1 = "127.0.0.1:0"/' "$config" >"$work/all.toml"
    # The first provider and upstream; up to the line before the second.
    sed '/^\[providers.besender\]/,$d; /^route /d' "$work/all.toml" >"$work/one.toml"
    # An API has a name.
    sed -Ei 's/^\[upstreams.cncn\]/&\nhttp = "1.1"/; s#^(url .*)127\.0\.0\.1#\1localhost#' "$work/one.toml"

    plain_vendors
}

# Plain OAuth 2.0 servers and APIs with a name and a certificate of a private CA or of their own, by OpenSSL: the demo has none of these.
plain_vendors() {
    (
        cd "$work"
        key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
        openssl req -x509 "${key[@]}" -keyout ca.key -out ca.pem -subj /CN=ca -addext basicConstraints=critical,CA:TRUE
        openssl req "${key[@]}" -keyout api.key -out api.csr -subj /CN=api.test
        openssl x509 -req -in api.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out api.pem \
            -extfile <(printf '%s\n' 'subjectAltName = DNS:api.test, DNS:localhost' 'basicConstraints = critical, CA:FALSE' \
                'keyUsage = critical, digitalSignature' 'extendedKeyUsage = serverAuth' 'authorityKeyIdentifier = keyid')
        openssl req -x509 "${key[@]}" -keyout own.key -out own.pem -subj /CN=api.test -addext 'subjectAltName = DNS:api.test' \
            -addext basicConstraints=critical,CA:FALSE
    ) 2>"$work/openssl.log"
    python3 - "$work" <<'PY' &
import http.server, json, os, socket, ssl, sys, threading, time

work = sys.argv[1]

# What servers like to tell.
TOLD = """
accept-ranges: bytes
access-control-allow-credentials: true
access-control-allow-headers: content-type
access-control-allow-methods: GET, POST
access-control-allow-origin: https://app.test
access-control-expose-headers: etag
access-control-max-age: 600
age: 0
allow: GET, POST
cache-control: no-store, private
content-disposition: inline
content-language: en
content-location: /slow
content-security-policy: default-src 'none'
etag: "0123456789abcdef"
expires: Thu, 01 Jan 2026 00:00:00 GMT
last-modified: Thu, 01 Jan 2026 00:00:00 GMT
link: </next>; rel="next"
pragma: no-cache
referrer-policy: no-referrer
retry-after: 1
set-cookie: session=0123456789abcdef; Path=/; Secure
strict-transport-security: max-age=31536000
vary: Accept-Encoding, Origin
x-content-type-options: nosniff
x-frame-options: DENY
x-request-id: 0123456789abcdef
x-xss-protection: 0
"""


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # In one piece, up to 64 KiB.
    wbufsize = 65536
    pause = 0

    def answer(self, kind, content, told=""):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for field in told.strip().splitlines():
            self.send_header(*field.split(": ", 1))
        self.end_headers()
        for piece in self.pieces(content):
            self.wfile.write(piece)

    def pieces(self, content):
        if not self.pause:
            return [content]
        half = len(content) // 2
        return map(self.late, [content[:half], content[half:]])

    def late(self, piece):
        self.wfile.flush()
        time.sleep(self.pause)
        return piece

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        token = {"access_token": "0" * 40, "token_type": "Bearer", "expires_in": 3600}
        self.answer("application/json", json.dumps(token).encode())

    def do_GET(self):
        if self.path != "/slow":
            return self.answer("text/plain", b"x" * {"/large": 8_000_000, "/medium": 64 << 10}.get(self.path, 1024))
        time.sleep(0.5)
        self.pause = 0.2
        self.close_connection = True
        self.answer("text/plain", b"x" * 1024, TOLD + "connection: close")

    def log_message(self, *_):
        pass


class Closing(Answer):
    protocol_version = "HTTP/1.0"
    pause = 0.2

    def do_POST(self):
        # So that first requests wait for a token.
        time.sleep(2)
        super().do_POST()


def serve(handler, certificate=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(f"{work}/{certificate}.pem", f"{work}/{certificate}.key")
        # Python prefers AES-256, most servers what the client does.
        if certificate == "api":
            tls.set_alpn_protocols(["http/1.1"])
            tls.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever).start()
    return server.server_port


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def configured(name, port, admin, secret, token_url, api, ca):
    tls = f'tls = {{ ca_file = "{work}/{ca}.pem" }}'
    tls_of_tokens = tls + "\n" if token_url.startswith("https:") else ""
    with open(f"{work}/{name}.part", "w") as config:
        config.write(f"""
[server]
listen = "127.0.0.1:{port}"
admin = "{admin}"
workers = 1

[providers.{name}]
dialect = "oauth2"
token_url = "{token_url}"
{tls_of_tokens}client_id = "{name}"
client_secret = "{secret}"

[upstreams.{name}]
url = "https://api.test"
connect_to = "127.0.0.1:{api}"
provider = "{name}"
http = "1.1"
{tls}
""")
    os.rename(f"{work}/{name}.part", f"{work}/{name}.toml")


tokens, closing = f"https://localhost:{serve(Answer, 'api')}/token", f"http://127.0.0.1:{serve(Closing)}/token"
configured("plain", 0, "127.0.0.1:0", "plain-secret", tokens, serve(Answer, "api"), "ca")
configured("bare", free_port(), "off", "of-other-lengths", closing, serve(Answer, "own"), "own")
PY
    until [[ -e $work/plain.toml && -e $work/bare.toml ]]; do sleep 0.2; done
}

told=()
for field in 'Accept-Charset: utf-8' 'Accept-Encoding: gzip, deflate, br' 'Accept-Language: en' 'Cache-Control: no-cache' 'Cookie: a=b' \
    'Content-Type: application/json' 'DNT: 1' 'If-Match: "a"' 'If-Modified-Since: Thu, 01 Jan 2026 00:00:00 GMT' 'If-None-Match: "b"' \
    'If-Range: "a"' 'Pragma: no-cache' 'Range: bytes=0-99' 'Referer: https://app.test/' \
    'traceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-01' 'Upgrade-Insecure-Requests: 1' 'X-Request-Id: 0' \
    'X-Forwarded-For: 192.0.2.1' 'X-Forwarded-Proto: https'; do
    told+=(-H "$field")
done

# Runs the command, which is the program, with a configuration of the above: every path a few times; with `uploads` these, too, and with
# `all` besides them the admin port, the time of a refresh and a reload.
#
#     observe NAME start|uploads|all PATH... -- COMMAND...
observe() {
    local name=$1 what=$2 config listen admin pid path paths=()
    shift 2
    while [[ $1 != -- ]]; do
        paths+=("$1")
        shift
    done
    shift
    config=$work/$name.toml
    # As one that was just written.
    touch "$config"
    "$@" run --config "$config" >"$work/$name.log" 2>&1 &
    pid=$!
    started "$name"
    for path in "${paths[@]}" "${paths[@]}" "${paths[@]}"; do
        curl -fsS -o "$work/body" "http://$listen$path" -o "$work/body" "http://$listen$path"
        # Apps have credentials of their own at times, and leave.
        curl -fsS -o "$work/body" -H 'Authorization: Bearer mine' -H 'Connection: close' "http://$listen$path"
    done
    if [[ " ${paths[*]} " == *' /large '* ]]; then
        # Slower than the API is, and with what apps like to tell.
        curl -fsS -o "$work/body" --limit-rate 4M "http://$listen/large"
        curl -fsS -o "$work/body" -H 'Host: api.test' "${told[@]}" "http://$listen/slow" -o "$work/body" "http://$listen/slow"
    fi
    # A probe of the port.
    : <>"/dev/tcp/${listen/://}"
    if [[ $what != start ]]; then
        for path in "${paths[@]}"; do
            curl -sS -o "$work/body" --data-binary "@$program" -H 'Expect:' "http://$listen$path" || true
        done
    fi
    if [[ $what == all ]]; then
        for path in /livez /readyz /metrics /; do
            curl -fsS -o "$work/body" "http://$admin$path"
        done
        sleep 12
        echo '# changed' >>"$config"
        kill -HUP "$pid"
        sleep 2
    fi
    # As a container is ended.
    kill -TERM "$pid"
    wait "$pid"
}

# Waits until the program, which runs with `config`, listens, and finds out where.
started() {
    local last='admin page at'
    if grep -q '^admin = "off"' "$config"; then
        last='listening on'
    fi
    until grep -qs "$last" "$work/$1.log"; do
        sleep 0.2
        kill -0 "$pid" || { cat "$work/$1.log" >&2 && return 1; }
    done
    listen=$(sed -nE 's/.*listening on http:..([0-9.:]+).*/\1/p' "$work/$1.log")
    admin=$(sed -nE 's/.*admin page at http:..([0-9.:]+).*/\1/p' "$work/$1.log")
}
