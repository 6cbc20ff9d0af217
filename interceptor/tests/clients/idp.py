"""A token issuer's web server: python idp.py ADDRESS PORT DIRECTORY CERTIFICATE KEY

Serves the files of the directory over HTTPS, and prints each path that is asked for.
"""

import functools
import http.server
import ssl
import sys

ADDRESS, PORT, DIRECTORY, CERTIFICATE, KEY = sys.argv[1:6]


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        print(self.path, flush=True)
        super().do_GET()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer((ADDRESS, int(PORT)), functools.partial(Handler, directory=DIRECTORY))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print("serving", flush=True)
server.serve_forever()
