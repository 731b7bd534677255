"""
This module makes what clients send: streams of requests made from a grammar, and spoilt a
little.

Everything is drawn from the generator that is passed in, so that a seed and a number give
the same stream each time.
"""

from __future__ import annotations

import json
from random import Random

__all__ = ["mutate", "stream"]

MODELS = (b"a", b"a", b"a", b"a", b"a", b"b")

_METHODS = (b"POST",) * 8 + (b"GET", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"QUERY")

_FIELDS = (
    b"Accept: */*",
    b"Accept:",
    b"User-Agent: fuzz/1.0",
    b"Authorization: Bearer sk-0000",
    b"X-Forwarded-For: 203.0.113.7",
    b"Cookie: a=b; c=d",
    b"X-Odd: \xe4\xf6\xfc",
    b"X-Tab:\ta\tb\t",
    b"x-lower: 1",
    b"Connection: keep-alive",
    b"Connection: X-Odd, keep-alive",
    b"Connection: Authorization",
    b"Keep-Alive: timeout=5",
    b"Proxy-Authorization: Basic eA==",
    b"TE: trailers",
    b"Trailer: X-T",
    b"Expect: 100-continue",
    b"Content-Encoding: identity",
    b"Accept-Encoding: gzip",
)

_RARE_FIELDS = (
    b"Origin: http://localhost",
    b"Connection: close",
    b"Connection: close, x",
    b"Connection: upgrade",
    b"Upgrade: h2c",
    b"Upgrade: websocket",
    b"HTTP2-Settings: AAMAAABkAAQAAP__",
    b"Proxy-Connection: close",
    b"Proxy-Connection: keep-alive",
    b"Expect: something-else",
    b"Host: another",
    b"Content-Length: 3",
    b"Content-Length: 0003",
    b"Content-Length: +3",
    b"Content-Length: 3, 3",
    b"Content-Length: -1",
    b"Content-Length: 0x3",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: " + b"0" * 4301 + b"3",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer_Encoding: chunked",
    b"transfer-encoding:chunked",
    b" folded: yes",
    b"\tfolded",
    b"No colon",
    b": no name",
    b"Space : before",
    b"A\x00: b",
    b"A: b\x00",
    b"A: b\nC: d",
    b"A: b\rC: d",
    b"X-Long: " + b"l" * 9000,
)

_SPOILERS = (
    *(b"\n", b"\r", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b"\0", b"\xff", b"\x7f"),
    *(b"0", b"9", b"f", b";", b",", b"a", b"-", b"+", b"{", b"}", b'"', b"\\"),
    *(b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: y\r\n"),
    *(b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"GET / ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    *(b"0\r\n\r\n", b"chunked", b"model", b'"model": "b"'),
)

_CHARSETS = (
    *(b"utf-8", b"latin-1", b"windows-1252", b"punycode", b"idna", b"utf-7", b"utf-16"),
    *(b"zlib", b"rot13", b"unicode_escape", b"mbcs", b"../etc", b"\xff", b"base64", b"big5"),
)


def _target(random: Random, nonce: bytes) -> bytes:
    return random.choice(
        (
            b"/v1/chat/completions?n=" + nonce,
            b"/v1/chat/completions?n=" + nonce,
            b"/v1/completions?n=" + nonce,
            b"/" + nonce,
            b"/a%20b/" + nonce,
            b"/v1//x/../" + nonce,
            b"http://x/v1/x?" + nonce,
            b"HTTP://other:99?" + nonce,
            b"/x?" + nonce + b"#frag",
            b"/" + b"u" * random.choice((10, 1000, 16000, 17000)) + nonce,
        )
    )


def _json(random: Random, nonce: bytes) -> bytes:
    model = random.choice(MODELS).decode()
    text = nonce.decode()
    kind = random.randrange(14)
    pad: object = "p" * random.choice((0, 0, 10, 500))
    if kind < 4:
        body = json.dumps({"model": model, "n": text, "pad": pad})
    elif kind < 6:
        body = json.dumps({"n": text, "pad": [pad, {"model": "x"}], "model": model})
    elif kind == 6:
        body = json.dumps({"model": "nobody", "n": text, "\u6a21": "\U0001f600", "model ": 1})
        body = body.replace("model ", "model").replace("1}", f'"{model}"}}')
    elif kind == 7:
        deep = random.choice((5, 900, 3000))
        body = f'{{"n": "{text}", "d": {"[" * deep}{"]" * deep}, "model": "{model}"}}'
    elif kind == 8:
        deep = random.choice((5, 2000, 20000))
        body = '{"model":' * deep + f'"{model}"' + "}" * deep
    elif kind == 9:
        many = random.choice((5, 300, 10000))
        opened = random.choice((0, 3000))
        body = "[" * opened + '{"model":1},' * many + f'{{"model": "{model}", "n": "{text}"}}'
    elif kind == 10:
        body = json.dumps(["model", model, text])
    elif kind == 11:
        body = json.dumps({"model": random.choice((1, None, [], {}, "", "\ud800")), "n": text})
    elif kind == 12:
        size = random.choice((60_000, 70_000, 300_000, 1_100_000))
        size = size if random.random() < 0.2 else 3000
        body = json.dumps({"n": text, "pad": "q" * size, "model": model})
    else:
        body = "\ufeff" + json.dumps({"mo\\u0064el": model, "n": text}).replace("\\\\", "\\")
    return body.encode("utf-8", "surrogatepass")


def _form(random: Random, nonce: bytes) -> tuple[bytes, bytes]:
    boundary = b"b" + nonce
    model = random.choice(MODELS)
    parts = []
    for _ in range(random.choice((1, 1, 2, 5, 30))):
        name = random.choice((b"model", b"model", b"file", b"n"))
        value = model if random.random() < 0.6 else random.randbytes(random.choice((3, 300)))
        if random.random() < 0.05:
            value = random.choice((b"a", b"\xc3\xa4", b"-")) * 64_000
        head = b'Content-Disposition: form-data; name="%b"' % name
        if name == b"file":
            head += b'; filename="m\xe4.wav"'
        if random.random() < 0.4:
            head += b"\r\nContent-Type: text/plain; charset=" + random.choice(_CHARSETS)
        if random.random() < 0.1:
            head += b"\r\nContent-Transfer-Encoding: " + random.choice((b"base64", b"8bit"))
        parts.append(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head, value))
    end = b"--%b--\r\n" % boundary
    kind = b"multipart/form-data; boundary=" + boundary
    odd = random.randrange(20)
    if odd == 0:
        kind = b'multipart/form-data; boundary="' + b"\\a" * random.choice((4, 22, 40))
    elif odd == 1:
        kind = b"multipart/form-data"
    elif odd == 2:
        kind += b"; charset=" + random.choice(_CHARSETS)
    elif odd == 3:
        end = b""
    return kind, b"".join(parts) + end


def _chunked(random: Random, body: bytes) -> bytes:
    out = []
    while body:
        size = len(body)
        if random.random() < 0.8:
            size = random.randint(max(1, size // 40), size)
        line = random.choice((b"%x", b"%X", b"0%x", b"0000000%x")) % size
        odd = random.randrange(30)
        if odd < 5:
            line += random.choice(
                (b";a=b", b";a", b' ; a="b;c"', b";" + b"e" * 3000, b"\t", b" ")
            )
        elif odd == 5:
            line = random.choice((b"0x%x", b"+%x", b"-%x", b"%xg", b" %x", b"_%x")) % size
        out.append(line + b"\r\n" + body[:size] + b"\r\n")
        body = body[size:]
    out.append(random.choice((b"0", b"0", b"000", b"0;x=y")))
    trailer = random.choice((b"", b"", b"", b"X-T: u\r\n", b"Content-Length: 5\r\n"))
    out.append(b"\r\n" + trailer + b"\r\n")
    return b"".join(out)


def _request(random: Random, nonce: bytes) -> bytes:
    method = random.choice(_METHODS)
    target = _target(random, nonce)
    version = b"HTTP/1.0" if random.random() < 0.06 else b"HTTP/1.1"
    fields = [b"Host: 127.0.0.1", b"X-Nonce: " + nonce]
    fields += random.sample(_FIELDS, random.choice((0, 1, 2, 4)))
    if random.random() < 0.06:
        fields.append(random.choice(_RARE_FIELDS))
    if random.random() < 0.01:
        many = random.choice((150, 195, 205))
        fields += [b"X-%d: %d" % (i, i) for i in range(many)]
    if random.random() < 0.01:
        fields.append(b"X-Huge: " + b"h" * random.choice((30_000, 64_000, 66_000, 130_000)))
    shape = random.random()
    body = b""
    if shape < 0.75:
        body = _json(random, nonce)
        if random.random() < 0.6:
            fields.append(b"Content-Type: application/json")
    elif shape < 0.87:
        kind, body = _form(random, nonce)
        fields.append(b"Content-Type: " + kind)
    elif shape < 0.92:
        body = random.choice(
            (b"", b"abc", b"\r\n\r\n" * 3000, b"0\r\n\r\n", nonce, random.randbytes(700))
        )
    if body or method in (b"POST", b"PUT"):
        framing = random.random()
        if framing < 0.7:
            fields.append(
                random.choice((b"Content-Length", b"content-length")) + b": %d" % len(body)
            )
        elif framing < 0.97:
            fields.append(b"Transfer-Encoding: chunked")
            body = _chunked(random, body)
        else:
            fields += [b"Transfer-Encoding: chunked", b"Content-Length: %d" % len(body)]
            body = _chunked(random, body)
    if random.random() < 0.3:
        random.shuffle(fields)
    first = b"%b %b %b" % (method, target, version)
    return b"\r\n".join([first, *fields]) + b"\r\n\r\n" + body


def _own(random: Random, nonce: bytes) -> bytes:
    method = random.choice((b"GET", b"GET", b"HEAD", b"POST", b"DELETE"))
    path = random.choice(
        (b"/metrics", b"/health", b"/ready", b"/v1/models", b"/v1/models/a", b"/", b"/llmux/")
    )
    return b"%b %b?%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (method, path, nonce)


def _special(random: Random, nonce: bytes) -> bytes:
    """Make a request of a shape that has caused trouble once."""
    size = random.choice((100, 1000, 16_000))
    kind = random.randrange(9)
    if kind == 0:
        return b"PRI * HTTP/1.0\r\n\r\nX"
    if kind == 1:
        return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\4\0\0\0\0\0"
    if kind == 2:
        return b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * (size // 40)
    if kind == 3:
        return b"GET / HTTP/1.1\r\nHost:\r\n\r\n" * (size // 10)
    if kind == 4:
        return b"\r\n" * size + _own(random, nonce)
    if kind == 5:
        body = b"\r\n\r\n" * size
        return (
            b"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            + _chunked(random, body)
        )
    if kind == 6:
        return b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(500)
    if kind == 7:
        return b"GET /" + b"x" * size
    body = b'{"model": "a", "n": "%b"}' % nonce
    first = b"POST /first?%b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (
        nonce,
        len(body),
        body,
    )
    return first + b"GET / HTTP/1.1\r\nHost:\r\n\r\n" * random.choice((15, 16, 17, 18, 200))


def mutate(random: Random, data: bytes, most: int = 4) -> bytes:
    """Return the data with a few bytes put in, left out, swapped or repeated."""
    for _ in range(random.randint(1, most)):
        at = random.randint(0, len(data))
        kind = random.randrange(6)
        if kind < 3:
            gone = random.choice((0, 0, 1, 2))
            data = data[:at] + random.choice(_SPOILERS) + data[at + gone :]
        elif kind == 3:
            data = data[:at] + data[at + random.choice((1, 1, 2, 10)) :]
        elif kind == 4:
            data = data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
        else:
            end = min(len(data), at + random.choice((1, 4, 40)))
            data = data[:end] + data[at:end] + data[end:]
    return data


def stream(random: Random, nonce: str) -> bytes:
    """
    Make everything that a client sends on a connection.

    @param nonce: a text that stands in each of the requests, and in no other stream.
    """
    count = random.choice((1, 1, 1, 1, 2, 2, 3, 5, 10, 17, 18, 40))
    parts = []
    for i in range(count):
        name = f"{nonce}x{i}x".encode()
        chance = random.random()
        if chance < 0.85:
            parts.append(_request(random, name))
        elif chance < 0.98:
            parts.append(_own(random, name))
        else:
            parts.append(_special(random, name))
        if random.random() < 0.02:
            parts.append(b"\r\n")
    data = b"".join(parts)
    if random.random() < 0.45:
        data = mutate(random, data)
    return data
