"""What agents of a daemon that comes and goes share."""
WAYS = ((FAR4, INET), (FAR6, INET6), (MAPPED, INET6))

def attempt(work, plain=attempt):
    """As everywhere, with how long it took."""
    began = time.monotonic()
    return {**plain(work), "ms": round(1000 * (time.monotonic() - began), 1)}

def told(host, port, family=INET, limit=20):
    """The record of a connection."""
    with connect(host, port, family, limit=limit) as s: return json.loads(read(s))

class Hammer:
    """Connects again and again, each time to another port, and looks at what it is told."""
    def __init__(self, threads):
        self.told, self.cut, self.waited, self.longest = 0, 0, 0, 0.0
        self.failed, self.wrong, self.stopped, self.lock = [], [], False, threading.Lock()
        self.threads = [threading.Thread(target=self.run, args=(10000 + 10000 * n,)) for n in range(threads)]
        for thread in self.threads: thread.start()

    def run(self, base):
        tid, n = threading.get_native_id(), 0
        while not self.stopped:
            (host, family), port, n = WAYS[n % 3], base + n % 10000, n + 1
            began = time.monotonic()
            try: s = connect(host, port, family, limit=20)
            except OSError as error:
                self.failed.append(["connecting", host, port, repr(error), round(began, 1)])
                continue
            with s:
                try: data = read(s)
                # The daemon was killed between taking it and answering.
                except ConnectionError: data = b""
                except OSError as error:
                    self.failed.append(["reading", host, port, repr(error), s.getsockname()])
                    continue
            took = time.monotonic() - began
            if not data.endswith(b"\n"):
                with self.lock: self.cut += 1
                continue
            record = json.loads(data)
            want = ("[%s]:%d" if host == FAR6 else "%s:%d") % (FAR6 if host == FAR6 else FAR4, port)
            right = record["destination"] == want and record["pid"] == os.getpid() and record["tid"] == tid
            with self.lock:
                self.told += 1
                self.waited += took > 0.03
                self.longest = max(self.longest, took)
                if not right: self.wrong.append([want, record])

    def stop(self):
        self.stopped = True
        for thread in self.threads: thread.join()
        return {"told": self.told, "cut": self.cut, "waited": self.waited, "longest_ms": round(1000 * self.longest),
                "failed": self.failed[:5], "wrong": self.wrong[:5]}
