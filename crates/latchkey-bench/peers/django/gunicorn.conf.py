"""One core, as every server of the benchmark has."""

bind = "127.0.0.1:0"
wsgi_app = "wsgi:application"
worker_class = "gthread"
workers = 2
threads = 4
keepalive = 60
loglevel = "error"


def when_ready(server):
    host, port = server.LISTENERS[0].getsockname()
    print(f"gunicorn listens on {host}:{port}", flush=True)
